// A small chat on useStream, unmodified, as its documentation builds one. The query string says what it is connected to:
// ?api=<url>&assistant=<id>[&thread=<id>][&stop=continue]
import { useState } from "react";
import { createRoot } from "react-dom/client";
import { useStream } from "@langchain/langgraph-sdk/react";

const query = new URLSearchParams(location.search);

function remember(threadId) {
  query.set("thread", threadId);
  history.replaceState(null, "", `?${query}`);
}

function Chat() {
  const [threadId, setThreadId] = useState(query.get("thread"));
  const stream = useStream({
    apiUrl: query.get("api"),
    assistantId: query.get("assistant"),
    threadId,
    onThreadId: (id) => {
      setThreadId(id);
      remember(id);
    },
    messagesKey: "messages",
    reconnectOnMount: true,
    fetchStateHistory: true,
    onError: (error) => (document.title = `failed: ${error.message}`),
  });
  const say = (text, checkpoint) =>
    stream.submit(
      { messages: [{ type: "human", content: text }] },
      { checkpoint, streamResumable: query.get("stop") !== "cancel", streamMode: ["values", "messages-tuple"] },
    );
  return (
    <main>
      <output id="loading">{String(stream.isLoading)}</output>
      <output id="error">{stream.error ? String(stream.error) : ""}</output>
      <output id="values">{JSON.stringify(stream.values)}</output>
      <output id="interrupt">{stream.interrupt ? JSON.stringify(stream.interrupt.value) : ""}</output>
      <ol>
        {stream.messages.map((message, index) => {
          const seen = stream.getMessagesMetadata(message, index);
          return (
            <li key={message.id ?? index} className={message.type}>
              <span className="text">{message.content}</span>
              {message.type === "human" && (
                <button className="edit" onClick={() => say("edited", seen?.firstSeenState?.parent_checkpoint)}>
                  edit
                </button>
              )}
              {seen?.branchOptions?.map((branch) => (
                <button className="branch" key={branch} onClick={() => stream.setBranch(branch)}>
                  {branch}
                </button>
              ))}
            </li>
          );
        })}
      </ol>
      <button id="say" onClick={() => say("hello")}>say</button>
      <button id="start" onClick={() => stream.submit({})}>start</button>
      <button id="answer" onClick={() => stream.submit(undefined, { command: { resume: "yes" } })}>answer</button>
      <button id="stop" onClick={() => stream.stop()}>stop</button>
    </main>
  );
}

createRoot(document.getElementById("root")).render(<Chat />);
