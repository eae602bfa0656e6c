"""stip-client chat: a conversation in the terminal.

Replies go to standard output and all else to standard error, so that a pipe gets replies alone.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from stip_client.bundle.prompt import encode_prompt
from stip_client.cli.connection_options import access
from stip_client.cli.conversation.history import Conversation, valid_text
from stip_client.cli.conversation.line_input import LineInput
from stip_client.cli.conversation.statistics import ReplyStatistics, table
from stip_client.cli.generation_options import add_generation_options, generation_options
from stip_client.cli.reply_timing import ReplyTiming
from stip_client.cli.signals import InterruptibleReply, sigterm_raises
from stip_client.cli.terminal import printable, reply_text, say_error
from stip_client.client import Client
from stip_client.errors import BundleError, ClientError, ContextOverflowError, RequestError
from stip_client.session.generation import FinishReason

HELP = """\
/help          list these commands
/reset         forget the conversation; the system prompt stays
/system TEXT   set the system prompt, from the next message on; without TEXT, remove it
/save FILE     write the messages to a new file, as JSON that nobody else may read
/stats         tokens, times and bytes
/quit          leave, as Ctrl-D does
//TEXT         send /TEXT
Ctrl-C stops a reply, clears what is typed, and leaves where nothing is."""


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    connection: argparse.ArgumentParser,
) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "chat",
        parents=[connection],
        help="hold a conversation in the terminal",
        description="Hold a conversation. Each line is a message; of the conversation only what is "
        "new is sent. It is kept nowhere unless you save it.",
        epilog=f"commands in the conversation:\n{HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # --token SECRET must not pass for --token-file
    )
    parser.add_argument("--system", metavar="TEXT", help="begin with this system prompt")
    add_generation_options(parser, max_new_tokens=512)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    lines = LineInput()
    conversation = Conversation(None if arguments.system is None else valid_text(arguments.system))
    with (
        sigterm_raises(),
        Client(arguments.server, arguments.bundle, **access(arguments)) as client,
    ):
        if client.bundle.chat_template is None:
            raise BundleError(
                "this bundle has no chat template, so its model holds no conversations",
                hint="stip-client generate --raw lets it continue a text",
            )
        info = client.model_info()
        if lines.interactive:
            _tell(
                f"{info.model.model_type} at {arguments.server}, up to {info.limits.max_length} "
                "tokens; /help lists the commands, Ctrl-D leaves"
            )
        chat = _Chat(client, conversation, arguments)
        chat.talk(lines)
    # for a script, which sees no errors: whether every message was answered
    return 1 if chat.failed and not lines.interactive else 0


class _Chat:
    """A conversation with one client."""

    def __init__(
        self, client: Client, conversation: Conversation, arguments: argparse.Namespace
    ) -> None:
        self._client = client
        self._conversation = conversation
        self._options = generation_options(arguments)
        self._replies: list[ReplyStatistics] = []
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: _tell(HELP),
            "/reset": self._reset,
            "/system": self._set_system,
            "/save": self._save,
            "/stats": self._show_statistics,
        }
        self.failed = False

    def talk(self, lines: LineInput) -> None:
        """Answer one line after the other. Raises KeyboardInterrupt for Ctrl-C at the prompt."""
        while (line := lines.read()) is not None:
            text = line.strip()
            if text == "/quit":
                return
            try:
                if text.startswith("/") and not text.startswith("//"):
                    self._obey(text)
                elif text:
                    self._reply(text[1:] if text.startswith("//") else text)
            except KeyboardInterrupt:  # what was under way has ended; the conversation goes on
                _tell("")
            except ClientError as error:
                self.failed = True
                say_error(error)
        if lines.interactive:
            _tell("")

    # -- messages --------------------------------------------------------------------------------

    def _reply(self, text: str) -> None:
        self._conversation.ask(text)
        try:
            answered = self._answer()
        except ContextOverflowError as error:
            raise ContextOverflowError(
                f"the conversation has grown too long: {error}", hint="/reset begins a new one"
            ) from error
        finally:
            self._conversation.take_back()  # unless it has been answered
        if not answered:
            _tell("stopped before anything came: the message is taken back")

    def _answer(self) -> bool:
        """Show the reply to the last message and enter it; false if there was none."""
        messages = self._conversation.messages
        prompt_tokens = len(encode_prompt(self._client.bundle, messages))
        timing = ReplyTiming()
        texts: list[str] = []
        finish: FinishReason | None = None
        # closed at once when it is stopped: its session is then free to be continued
        reply = self._client.chat(messages, **self._options)
        try:
            with InterruptibleReply() as interruptible, closing(reply):
                for piece in interruptible.pieces(reply):
                    timing.record(piece)
                    texts.append(piece.text)
                    finish = piece.finish_reason
                    print(reply_text(piece.text, sys.stdout), end="", flush=True)
        except ClientError:
            _end_line(texts)
            raise
        text = "".join(texts)
        stopped = interruptible.stopped and finish is None
        if stopped and not text:
            return False
        self._replies.append(ReplyStatistics(prompt_tokens, timing))
        self._conversation.answer(text, stopped=stopped)
        print(flush=True)
        if stopped:
            _tell("[stopped]")
        elif finish == "length":
            self._tell_why_it_ended(timing.tokens)
        return True

    def _tell_why_it_ended(self, tokens: int) -> None:
        if tokens < self._options["max_new_tokens"]:
            _tell("[the context is full: /reset begins a new conversation]")
        else:
            _tell(f"[ended after {tokens} tokens: --max-new-tokens]")

    # -- commands --------------------------------------------------------------------------------

    def _obey(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        command = self._commands.get(name)
        if command is None:
            raise RequestError(
                f"there is no command {name}", hint="/help lists them; //TEXT sends /TEXT"
            )
        command(rest.strip())

    def _reset(self, _: str) -> None:
        self._conversation.reset()
        _tell("the conversation is forgotten")

    def _set_system(self, text: str) -> None:
        self._conversation.system = valid_text(text) if text else None
        _tell("the system prompt is set" if text else "there is no system prompt now")

    def _save(self, name: str) -> None:
        if not name:
            raise RequestError("/save takes the name of a file")
        if not self._conversation.messages:
            raise RequestError("there is nothing to save yet")
        path = Path(os.path.expanduser(name))
        self._conversation.save(path)
        _tell(f"saved {len(self._conversation.messages)} messages to {path}")

    def _show_statistics(self, _: str) -> None:
        if not self._replies:
            raise RequestError("there is no reply yet")
        _tell(table(self._replies))


def _end_line(texts: list[str]) -> None:
    """End the line of a reply that broke off."""
    if any(texts):
        print(flush=True)


def _tell(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)
