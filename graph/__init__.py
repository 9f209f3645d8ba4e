"""The reference agent: plain LangGraph and LangChain, the first project that Holdfast serves."""
