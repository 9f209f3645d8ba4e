"""A Dockerfile played without Docker: its stages' steps, in a directory that stands for the image's root.

Absolute paths of the image are made paths below that directory by their text, so every path that a step writes to has
to be named in `WRITTEN`. What cannot be played (packages and users of the base image) is left out, and said.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

WRITTEN = ("/opt/holdfast", "/opt/healthcheck.py", "/project", "/data", "/dist", "/src", "/tmp")
LEFT_OUT = ("apt-get ",)
"""How a RUN begins that changes the base image itself."""
_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")
_PATHS = re.compile(rf"(?<![\w./])({'|'.join(map(re.escape, WRITTEN))})(?![\w.-])")


@dataclass
class Stage:
    """One stage: its instructions, and after it was played its environment."""

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)


def stages(text: str) -> dict[str, Stage]:
    """The stages by their names, each with its `(INSTRUCTION, rest)`; comments gone, lines joined."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    found: dict[str, Stage] = {}
    stage = Stage("")
    for line in re.sub(r"\\\n", " ", lines).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stage = found[name] = Stage(base)
        elif word:
            stage.steps.append((word, rest.strip()))
    return found


@dataclass
class Image:
    """A build in progress: `root` is the image's, `context` what the build is given."""

    dockerfile: Path
    context: Path
    root: Path
    left_out: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)
    """ENTRYPOINT, CMD, USER and the like of the last stage played, and its `environment`."""

    def play(self, *names: str) -> None:
        """Play these stages in this order."""
        every = stages(self.dockerfile.read_text())
        for name in names:
            stage = every[name]
            stage.environment = dict(every[stage.base].environment) if stage.base in every else {}
            place = self.root
            for word, rest in stage.steps:
                place = self._step(stage, word, rest, place)
        last = every[names[-1]].environment
        self.environment = {name: self.inside(value) for name, value in last.items()}

    def inside(self, text: str) -> str:
        """`text` with the image's absolute paths below `root`."""
        return _PATHS.sub(lambda match: f"{self.root}{match[1]}", text)

    def _step(self, stage: Stage, word: str, rest: str, place: Path) -> Path:
        if word == "RUN":
            self._run(stage, rest, place)
        elif word == "COPY":
            self._copy(rest.split(), place)
        elif word == "ARG":
            name, _, value = rest.partition("=")
            stage.environment.setdefault(name, value.strip('"'))
        elif word == "ENV":
            for name, value in re.findall(r"(\w+)=(\S+)", rest):
                stage.environment[name] = _filled(value, {**os.environ, **stage.environment})
        elif word == "WORKDIR":
            place = Path(self.inside(rest))
            place.mkdir(parents=True, exist_ok=True)
        else:
            self.config[word] = _filled(rest, stage.environment)
        return place

    def _run(self, stage: Stage, rest: str, place: Path) -> None:
        command = re.sub(r"--mount=\S+\s*", "", rest)
        if command.startswith(LEFT_OUT):
            self.left_out.append(command)
            return
        environment = {**os.environ, **stage.environment}
        environment["PATH"] = f"{self.root}/opt/holdfast/bin:{self.root}/usr/local/bin:{os.environ['PATH']}"
        environment["HOME"] = os.environ.get("HOME", "/root")
        shell = ["/bin/bash", "-euo", "pipefail", "-c", self.inside(command)]
        done = subprocess.run(shell, cwd=place, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    def _copy(self, words: list[str], place: Path) -> None:
        between_stages = words[0].startswith("--from=")
        *sources, target = words[1:] if between_stages else words
        to = Path(self.inside(target)) if target.startswith("/") else place / target
        for source in sources:
            if between_stages and self.inside(source) == str(to):
                continue
            found = Path(self.inside(source)) if between_stages else self._given(source)
            if found.is_dir():
                shutil.copytree(found, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", ".env"))
            else:
                into = to / found.name if target.endswith("/") or len(sources) > 1 else to
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(found, into)

    def _given(self, source: str) -> Path:
        """A file of the context that .dockerignore lets in."""
        let_in = [line[1:] for line in (self.context / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
        assert any(source == each or source.startswith(f"{each}/") for each in let_in), f"{source} is ignored"
        return self.context / source

    def command(self) -> list[str]:
        """What the image runs: its entry point, without the init process, and its command."""
        words: list[str] = json.loads(self.config["ENTRYPOINT"]) + json.loads(self.config["CMD"])
        assert words[:2] == ["tini", "--"]
        return words[2:]


def _filled(text: str, variables: dict[str, str]) -> str:
    return _VARIABLE.sub(lambda match: variables.get(match[1] or match[2], ""), text)
