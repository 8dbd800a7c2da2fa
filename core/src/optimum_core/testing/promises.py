"""The promises of a backend: for each test of the kit its capability, and where its promise is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ContractPromise:
    """A promise of the contract.

    Attributes:
        capability: the row of the scorecard.
        words: the promise.
        where: the page of the documentation, with the heading.
    """

    capability: str
    words: str
    where: str

    def __str__(self) -> str:
        """Return the promise and its place, as a failure shows them."""
        return f"{self.words} (docs/{self.where})"


_MODULE = "writing-a-backend.md#the-module"
_PACKAGE = "writing-a-backend.md#the-package"
_PROBE = "hooks.md#probehardware"
_LOAD = "hooks.md#load_sessionrequest"
_INFER = "hooks.md#infersession-inputs"
_LIFETIME = "hooks.md#lifetime-of-outputs"
_QUANTIZE = "hooks.md#quantizerequest"

# Test, without "test_": capability, place, promise.
_WRITTEN: tuple[tuple[str, str, str, str], ...] = (
    (
        "it_is_found_once_and_ready",
        "discovery",
        _PACKAGE,
        "one entry point has the name, and its module keeps the hooks",
    ),
    ("its_entry_module_and_probe_are_light", "discovery", _MODULE, "the module and its probe import nothing compiled"),
    (
        "it_imports_public_modules_only",
        "discovery",
        "writing-a-backend.md#public-modules",
        "of optimum-core, only public modules are imported",
    ),
    ("requests_for_others_get_no_answer", "discovery", "hooks.md#hooks", "requests for other backends get None"),
    ("every_offer_has_its_hook", "probe", _PROBE, "what the probe offers has its hook"),
    ("every_limitation_says_what_why_and_what_to_do", "probe", _PROBE, "a limitation says what, why and what to do"),
    ("no_offers_means_a_limitation", "probe", _PROBE, "where nothing is offered, a limitation says why"),
    ("offers_are_well_formed", "probe", _PROBE, "every field of an offer has its type, and is of use"),
    ("probing_twice_gives_the_same", "probe", _PROBE, "the probe depends on the hardware only"),
    ("an_unknown_machine_has_no_gpu", "probe", _PROBE, "a device is offered where it is"),
    ("probing_for_other_systems_does_not_fail", "probe", _PROBE, "the probe answers for every operating system"),
    ("every_offer_leads_to_a_session", "offers", _PROBE, "every format that is loaded can be made and opened"),
    ("it_agrees_with_eager_at_unseen_shapes", "values", "concepts.md#verification", "values agree with eager"),
    ("every_call_of_many_is_right", "values", _INFER, "every call gives the same values, the fiftieth too"),
    (
        "its_own_function_gives_what_its_hook_gives",
        "values",
        _LOAD,
        "`direct` gives what `infer` gives, in new arrays",
    ),
    ("another_process_gives_the_same", "values", "hooks.md#exportrequest", "the files alone give the same values"),
    ("a_session_says_what_it_is", "session", _LOAD, "a session has the protocol, and names the device it runs on"),
    ("its_specs_are_the_artifacts", "session", _LOAD, "inputs and outputs are those of the artifact"),
    ("an_unknown_option_is_refused", "session", _LOAD, "unknown options are an OptionError"),
    ("a_closed_session_refuses_to_run", "session", _LOAD, "a closed session raises SessionError"),
    ("memory_layout_does_not_matter", "arrays", _INFER, "arrays of any layout are taken"),
    ("torch_tensors_are_inputs", "arrays", _INFER, "whatever speaks DLPack is taken"),
    ("whatever_speaks_dlpack_is_an_input", "arrays", _INFER, "whatever speaks DLPack is taken"),
    ("inputs_are_left_alone", "arrays", _INFER, "inputs are not written to"),
    ("outputs_are_fresh", "outputs", _LIFETIME, "outputs are the caller's, whatever is called later"),
    ("views_outlive_their_outputs", "outputs", _LIFETIME, "a view keeps the memory that it shows"),
    ("threads_do_not_disturb_each_other", "threads", _INFER, "calls from several threads are independent"),
    ("refused_calls_harm_no_others", "faults", _INFER, "a refused call changes no other, and raises an OptimumError"),
    ("damaged_files_are_refused", "faults", _LOAD, "damaged files are an error with a remedy, and no crash"),
    ("sessions_do_not_leak", "resources", _LOAD, "a closed session holds no memory, thread or file"),
    ("every_scheme_that_it_runs_is_right", "quantized", _PROBE, "every scheme of runs is run rightly"),
    ("some_quantization_is_right", "quantize", _QUANTIZE, "what it quantizes is within its tolerance"),
)

#: By the name of the test.
PROMISES: Mapping[str, ContractPromise] = {
    f"test_{name}": ContractPromise(capability=capability, words=words, where=where)
    for name, capability, where, words in _WRITTEN
}
#: The rows of a scorecard, in order.
CAPABILITIES = tuple(dict.fromkeys(item.capability for item in PROMISES.values()))
