"""Calls and generation of an accelerated model of pictures or sound with text: the original's own, in torch."""

from __future__ import annotations

from typing import Any

from optimum_core.artifact import Manifest
from optimum_core.errors import UnavailableError
from optimum_core.runtime.call_inputs import InputChecker
from optimum_core.runtime.call_outputs import Answerer


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
                "pass what the model's processor returns with return_tensors='pt'",
            )
        host = self._merged_host(kwargs.get("past_key_values"))
        return host.generate(*([] if inputs is None else [inputs]), **kwargs)
