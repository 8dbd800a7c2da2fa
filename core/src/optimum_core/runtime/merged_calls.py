"""Calls and generation of an accelerated model of pictures or sound with text: the original's own, in torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

from optimum_core.artifact import Manifest
from optimum_core.errors import InputError, UnavailableError
from optimum_core.generation.chats import Chat
from optimum_core.generation.scores import check_logprobs
from optimum_core.generation.text import Begun
from optimum_core.runtime.call_inputs import InputChecker
from optimum_core.runtime.call_outputs import Answerer
from optimum_core.runtime.files_beside import FilesBeside
from optimum_core.types import PreparedChat

#: Writes texts behind a decoder that has begun, piece by piece.
Write = Callable[[Begun], Iterator[list[str]]]


def is_chats(given: Any) -> bool:
    """Whether it is a chat, what was prepared of one, or a list of these."""
    if isinstance(given, PreparedChat):
        return True
    first = given[0] if isinstance(given, list | tuple) and given else None
    if isinstance(first, list | tuple) and first:
        first = first[0]
    return isinstance(first, Mapping | PreparedChat)


class MergedCalls:
    """The members for models whose text has pictures or sound in it; `AcceleratedModel` sets the attributes."""

    manifest: Manifest
    config: Any
    generation_config: Any
    _who: str
    _session: Any
    _checker: InputChecker
    _answerer: Answerer
    _decoder: Any
    _is_merged: bool
    _beside: FilesBeside

    def _merged_host(self, past: Any = None) -> Any:
        """Return the original with its language model in the backend, for one call or generation.

        Args:
            past: the cache that it goes on from.
        """
        _ = self._decoder  # tells the session how long a text may be
        return self._session.host(self._who, self.config, lambda: self.generation_config, past)

    def _call_merged(self, kwargs: dict[str, Any]) -> Any:
        """Answer as the original's forward does: torch tensors go to its own code, with a cache in and out."""
        if any(hasattr(value, "detach") for value in kwargs.values()):
            returned = kwargs.pop("return_dict", None)
            as_tuple = self.manifest.model.returns_tuple if returned is None else not returned
            answer = self._merged_host(kwargs.get("past_key_values"))(**kwargs)
            return answer.to_tuple() if as_tuple else answer
        arrays, _ = self._checker.bind((), kwargs)
        return self._answerer.answer(self._session.run(arrays), as_torch=False)

    def _generate_merged(self, inputs: Any, kwargs: dict[str, Any]) -> Any:
        """Generate with the original's own `generate`.

        Raises:
            UnavailableError: what was passed is no torch tensor: without torch nothing puts pictures into a text.
        """
        if not any(hasattr(value, "detach") for value in (inputs, *kwargs.values())):
            raise UnavailableError(
                self._who,
                "pictures and sound are put into the text by the original's own code, in torch",
                "pass what the model's processor returns with return_tensors='pt', or a chat with its pictures",
            )
        host = self._merged_host(kwargs.get("past_key_values"))
        return host.generate(*([] if inputs is None else [inputs]), **kwargs)

    # Chats.

    @property
    def takes_pictures_in_chats(self) -> bool:
        """Whether `generate` takes chats with pictures in their messages; it needs torch and transformers."""
        names = {spec.name for spec in self.manifest.inputs}
        return self._is_merged and "pixel_values" in names

    @cached_property
    def _chat_reader(self) -> Any:
        from optimum_core.models.inputs.chats import ChatReader

        return ChatReader(self._beside.checked(), self._who)

    def prepare_chat(self, chat: Chat) -> PreparedChat:
        """Return a chat with pictures as inputs of the model, by its processor's chat template.

        Args:
            chat: messages with "role" and "content": a text, or parts as transformers' processors take them,
                `{"type": "text", "text": …}` and `{"type": "image", "image": …}` with a picture of PIL.

        Raises:
            UnavailableError: the model takes no pictures in texts, or has no processor or template.
            InputError: the processor refuses the chat.
        """
        if not self.takes_pictures_in_chats:
            whole = "pass what the model's processor returns with return_tensors='pt'"
            remedy = whole if self._is_merged else "pass the chat to generate"
            raise UnavailableError(self._who, "it takes no pictures in its text", remedy)
        return PreparedChat(inputs=self._chat_reader(chat))

    def _generate_chat(self, given: Any, write: Write, *, stream: bool, logprobs: int | None) -> Any:
        """Generate behind one chat, without transformers' `generate`.

        Args:
            write: writes behind a decoder, its first tokens and their mask.
            logprobs: as for `generate`; of a stream with them, pieces without text come too.

        Raises:
            InputError: several came.
            OptionError: the text does not come in pieces, and log probabilities would.
        """
        check_logprobs(logprobs, stream=stream)
        is_many = isinstance(given, list | tuple) and bool(given) and not isinstance(given[0], Mapping)
        chat = given[0] if is_many and len(given) == 1 else given
        if not isinstance(chat, PreparedChat):
            if not all(isinstance(message, Mapping) for message in chat):
                raise InputError(self._who, "several chats came", "pass one: messages with a role and content")
            chat = self.prepare_chat(chat)
        _ = self._decoder  # tells the session how long a text may be
        pieces = write(self._session.started(chat.inputs))
        if stream:
            return pieces if is_many else (row[0] for row in pieces if row[0] or logprobs is not None)
        text = "".join(row[0] for row in pieces)
        return [text] if is_many else text
