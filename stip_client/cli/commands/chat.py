"""stip-client chat: a conversation in the terminal.

Replies go to standard output and everything else to standard error, so a pipe gets only replies.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from stip_client.bundle.prompt import encode_prompt, valid_text
from stip_client.cli.connection_options import Commands, access, add_server_command
from stip_client.cli.conversation.history import Conversation
from stip_client.cli.conversation.line_input import LineInput
from stip_client.cli.conversation.statistics import table
from stip_client.cli.generation_arguments import add_generation_arguments, generation_options
from stip_client.cli.reply_timing import ReplyTiming
from stip_client.cli.signals import InterruptibleReply, sigterm_raises
from stip_client.cli.terminal import printable, reply_text, say_error
from stip_client.client import Client
from stip_client.errors import BundleError, ClientError, ContextOverflowError, RequestError
from stip_client.session.generation import FinishReason

HELP = """\
/help          list these commands
/reset         forget the conversation; keep the system prompt
/system TEXT   set the system prompt for the next messages; without TEXT, remove it
/save FILE     write the messages to a new JSON file that only you may read
/stats         show tokens, times and bytes
/quit          leave, as Ctrl-D does
//TEXT         send /TEXT
Ctrl-C stops a reply, clears what you typed, or leaves if nothing is typed."""


def add_parser(commands: Commands) -> None:
    parser = add_server_command(
        commands,
        "chat",
        help="hold a conversation in the terminal",
        description="Hold a conversation. Each line is a message; only the new part of the "
        "conversation is sent. Nothing is saved unless you save it.",
        epilog=f"commands in the conversation:\n{HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--system", metavar="TEXT", help="begin with this system prompt")
    add_generation_arguments(parser, max_new_tokens=512)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    lines = LineInput()
    system = None if arguments.system is None else valid_text(arguments.system, "message")
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
            _note(
                f"{info.model.model_type} at {arguments.server}, up to {info.limits.max_length} "
                "tokens; /help lists the commands, Ctrl-D leaves"
            )
        chat = _Chat(client, Conversation(system), arguments)
        chat.talk(lines)
    # tell a script whether every message was answered
    return 1 if chat.failed and not lines.interactive else 0


class _Chat:
    """A conversation with one client."""

    def __init__(
        self, client: Client, conversation: Conversation, arguments: argparse.Namespace
    ) -> None:
        self._client = client
        self._conversation = conversation
        self._options = generation_options(arguments)
        self._replies: list[ReplyTiming] = []
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: _note(HELP),
            "/reset": self._reset,
            "/system": self._set_system,
            "/save": self._save,
            "/stats": self._show_statistics,
        }
        self.failed = False

    def talk(self, lines: LineInput) -> None:
        """Answer line after line. Raises KeyboardInterrupt for Ctrl-C at the prompt."""
        while (line := lines.read()) is not None:
            text = line.strip()
            if text == "/quit":
                return
            try:
                if text.startswith("/") and not text.startswith("//"):
                    self._run_command(text)
                elif text:
                    self._reply(text[1:] if text.startswith("//") else text)
            except KeyboardInterrupt:  # the reply has ended; the conversation continues
                _note("")
            except ClientError as error:
                self.failed = True
                say_error(error)
        if lines.interactive:
            _note("")

    # -- messages --------------------------------------------------------------------------------

    def _reply(self, text: str) -> None:
        self._conversation.add_question(text)
        try:
            answered = self._answer()
        except ContextOverflowError as error:
            raise ContextOverflowError(
                f"the conversation has grown too long: {error}", hint="/reset begins a new one"
            ) from error
        finally:
            self._conversation.remove_unanswered()
        if not answered:
            _note("stopped before the reply began: the message is taken back")

    def _answer(self) -> bool:
        """Show and record the reply to the last message; False if it was stopped too early."""
        messages = self._conversation.messages
        timing = ReplyTiming(len(encode_prompt(self._client.bundle, messages)))
        texts: list[str] = []
        finish: FinishReason | None = None
        # closed as soon as it is stopped, so that its session can continue
        reply = self._client.chat(messages, **self._options)
        try:
            with InterruptibleReply() as interruptible, closing(reply):
                for piece in interruptible.pieces(reply):
                    timing.record(piece)
                    texts.append(piece.text)
                    finish = piece.finish_reason
                    print(reply_text(piece.text, sys.stdout), end="", flush=True)
        except ClientError:
            if any(texts):  # end the line of a reply that broke off
                print(flush=True)
            raise
        text = "".join(texts)
        stopped = interruptible.stopped and finish is None
        if stopped and not text:
            return False
        self._replies.append(timing)
        self._conversation.add_reply(text, stopped=stopped)
        print(flush=True)
        if stopped:
            _note("[stopped]")
        elif finish == "length" and timing.tokens < self._options["max_new_tokens"]:
            _note("[the context is full: /reset begins a new conversation]")
        elif finish == "length":
            _note(f"[ended after {timing.tokens} tokens: --max-new-tokens]")
        return True

    # -- commands --------------------------------------------------------------------------------

    def _run_command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        command = self._commands.get(name)
        if command is None:
            raise RequestError(
                f"there is no command {name}", hint="/help lists them; //TEXT sends /TEXT"
            )
        command(rest.strip())

    def _reset(self, _: str) -> None:
        self._conversation.reset()
        _note("the conversation is forgotten")

    def _set_system(self, text: str) -> None:
        self._conversation.system = valid_text(text, "message") if text else None
        _note("the system prompt is set" if text else "there is no system prompt now")

    def _save(self, name: str) -> None:
        if not name:
            raise RequestError("/save takes the name of a file")
        if not self._conversation.messages:
            raise RequestError("there is nothing to save yet")
        path = Path(os.path.expanduser(name))
        self._conversation.save(path)
        _note(f"saved {len(self._conversation.messages)} messages to {path}")

    def _show_statistics(self, _: str) -> None:
        if not self._replies:
            raise RequestError("there is no reply yet")
        _note(table(self._replies))


def _note(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)
