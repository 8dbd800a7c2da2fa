"""Sources of backends with one fault each, and the tests of the conformance kit that fail for it."""

from __future__ import annotations

from collections.abc import Mapping

from faultless_backends import COMPILER, GOOD, QUANTIZER, STUB

_HALVED = """
def halved(read, folder):
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    for name in read.files[1:]:
        (folder / name).write_bytes((read.path / name).read_bytes())
    weights = {name: tensor / 2 for name, tensor in load_file(read.main_file).items()}
    save_file(weights, folder / read.files[0], metadata={"format": "pt"})
    return replace(read, path=folder)
"""

_RUN = "outputs = self.eager.run(inputs)\n"
_DIRECT = "return [outputs[spec.name] for spec in self.outputs]"
_UNFIT = 'raise SessionError(BACKEND, f"{path} is damaged", "export it again")'

#: What another test may see of a fault too, when threads meet at the wrong moment.
RACES: Mapping[str, set[str]] = {
    "reuses_output_memory": {"test_threads_do_not_disturb_each_other", "test_refused_calls_harm_no_others"},
    "mixes_threads_up": {"test_refused_calls_harm_no_others"},
    "wrong_once_in_fifty": {"test_refused_calls_harm_no_others"},
    "gives_views_of_a_pool": {"test_threads_do_not_disturb_each_other", "test_refused_calls_harm_no_others"},
}

#: Fault: what is replaced in `GOOD`, by what, and the tests that fail for it.
FAULTS: Mapping[str, tuple[str, str, set[str]]] = {
    "none": ("", "", set()),
    "reuses_output_memory": (
        _RUN,
        _RUN
        + "        for key, array in outputs.items():\n"
        + "            kept = self.buffers.setdefault((key, array.shape), array)\n"
        + "            kept[:] = array\n"
        + "            outputs[key] = kept\n",
        {
            "test_it_agrees_with_eager_at_unseen_shapes",
            "test_outputs_are_fresh",
            "test_its_own_function_gives_what_its_hook_gives",
            "test_views_outlive_their_outputs",
        },
    ),
    "direct_gives_zeros": (
        _DIRECT,
        _DIRECT.replace("spec.name]", "spec.name] * 0"),
        {"test_its_own_function_gives_what_its_hook_gives"},
    ),
    "direct_reuses_memory": (
        _DIRECT,
        "for key, array in outputs.items():\n"
        + "            kept = self.buffers.setdefault((key, array.shape), array)\n"
        + "            kept[:] = array\n"
        + "            outputs[key] = kept\n        "
        + _DIRECT,
        {"test_its_own_function_gives_what_its_hook_gives"},
    ),
    "remembers_its_answers": (
        _RUN,
        _RUN
        + "        asked = b''.join(array.tobytes() for array in outputs.values())\n"
        + "        outputs = self.buffers.setdefault(asked, outputs)\n",
        {"test_outputs_are_fresh", "test_its_own_function_gives_what_its_hook_gives"},
    ),
    "gives_views_of_a_pool": (
        _RUN,
        _RUN
        + """        import weakref

        import numpy as np

        for key, array in outputs.items():
            free = self.buffers.setdefault((key, array.shape), [])
            memory = free.pop() if free else np.empty(array.nbytes, np.uint8)
            outputs[key] = memory.view(array.dtype).reshape(array.shape)
            outputs[key][:] = array
            weakref.finalize(outputs[key], free.append, memory)
""",
        {"test_views_outlive_their_outputs"},
    ),
    "wrong_once_in_fifty": (
        _RUN,
        _RUN
        + "        self.buffers['calls'] = self.buffers.get('calls', 0) + 1\n"
        + "        if self.buffers['calls'] % 50 == 0:\n"
        + "            outputs = {key: array * 2 for key, array in outputs.items()}\n",
        {"test_every_call_of_many_is_right", "test_threads_do_not_disturb_each_other"},
    ),
    "wrong_beyond_64_tokens": (
        _RUN,
        _RUN
        + "        if inputs['input_ids'].shape[1] > 64:\n"
        + "            outputs = {key: array * 2 for key, array in outputs.items()}\n",
        {"test_it_agrees_with_eager_at_unseen_shapes"},
    ),
    "wrong_beyond_batch_8": (
        _RUN,
        _RUN
        + "        if inputs['input_ids'].shape[0] > 8:\n"
        + "            outputs = {key: array * 2 for key, array in outputs.items()}\n",
        {"test_it_agrees_with_eager_at_unseen_shapes"},
    ),
    "loads_a_text": ('loads=("torch",)', 'loads="torch"', {"test_it_is_found_once_and_ready"}),
    "loads_what_nothing_makes": (
        'loads=("torch",)',
        'loads=("torch", "stone")',
        {"test_every_offer_leads_to_a_session"},
    ),
    "runs_an_unknown_scheme": (
        'loads=("torch",)',
        'loads=("torch",), runs=("int8",)',
        {"test_it_is_found_once_and_ready"},
    ),
    "ignores_the_mask": (
        _RUN,
        'import torch\n\n        mask = torch.as_tensor(inputs["attention_mask"])\n'
        + '        inputs["attention_mask"] = torch.ones_like(mask)\n        '
        + _RUN,
        {"test_it_agrees_with_eager_at_unseen_shapes"},
    ),
    "writes_into_inputs": (
        _RUN,
        _RUN + '        if hasattr(inputs["input_ids"], "fill"):\n            inputs["input_ids"][:] = 1\n',
        {"test_inputs_are_left_alone"},
    ),
    "ignores_strides": (
        _RUN,
        "import numpy as np\n\n"
        + "        for key, array in inputs.items():\n"
        + "            if isinstance(array, np.ndarray) and not array.flags.c_contiguous:\n"
        + "                memory = array if array.base is None else array.base\n"
        + '                inputs[key] = memory.ravel("K")[: array.size].reshape(array.shape)\n        '
        + _RUN,
        {"test_memory_layout_does_not_matter"},
    ),
    "mixes_threads_up": (
        _RUN,
        "import time\n\n        self.now = inputs\n        time.sleep(0.001)\n        inputs = self.now\n        "
        + _RUN,
        {"test_threads_do_not_disturb_each_other"},
    ),
    "reads_numpy_only": (
        _RUN,
        "import numpy as np\n\n"
        + "        if not all(isinstance(array, np.ndarray) for array in inputs.values()):\n"
        + '            raise TypeError("numpy arrays only")\n        '
        + _RUN,
        {"test_torch_tensors_are_inputs", "test_whatever_speaks_dlpack_is_an_input"},
    ),
    "remembers_refused_calls": (
        _RUN,
        "shape = tuple(next(iter(inputs.values())).shape)\n"
        + '        if shape == self.buffers.get("poisoned"):\n'
        + '            raise SessionError(BACKEND, "the run failed", "give another shape")\n'
        + "        try:\n            outputs = self.eager.run(inputs)\n"
        + '        except Exception:\n            self.buffers["poisoned"] = self.buffers["last"]\n            raise\n'
        + '        self.buffers["last"] = shape\n',
        {"test_refused_calls_harm_no_others"},
    ),
    "lets_foreign_errors_out": (
        _RUN,
        "try:\n            outputs = self.eager.run(inputs)\n"
        + "        except SessionError as error:\n            raise error.__cause__\n",
        {"test_refused_calls_harm_no_others"},
    ),
    "runs_when_closed": ("if self.closed:", "if False:", {"test_a_closed_session_refuses_to_run"}),
    "takes_any_option": ("for name in request.options:", "for name in ():", {"test_an_unknown_option_is_refused"}),
    "knows_private_modules": (
        'BACKEND = "good"\n',
        'BACKEND = "good"\n\n\ndef planned():\n    import optimum_core.plan\n\n    return optimum_core.plan\n',
        {"test_it_imports_public_modules_only"},
    ),
    "answers_for_others": (
        "return session.run(inputs) if session.backend == BACKEND else None",
        "return session.run(inputs) if session.backend == BACKEND else {}",
        {"test_requests_for_others_get_no_answer"},
    ),
    "other_specs": (
        "self.eager.inputs, self.eager",
        "self.eager.inputs[::-1], self.eager",
        {"test_its_specs_are_the_artifacts"},
    ),
    "other_device": (
        'backend, device = BACKEND, "cpu"',
        'backend, device = BACKEND, "gpu:0"',
        {"test_a_session_says_what_it_is"},
    ),
    "limitation_without_remedy": (
        "limitations=()",
        'limitations=(Limitation(what="more", reason="it is missing", remedy=" "),)',
        {"test_every_limitation_says_what_why_and_what_to_do"},
    ),
    "silent_probe": ('offers=(Offer(device="cpu", loads=("torch",)),), ', "", {"test_no_offers_means_a_limitation"}),
    "fickle_probe": (
        "limitations=()",
        "limitations=(), versions={'now': str(__import__('time').perf_counter_ns())}",
        {"test_probing_twice_gives_the_same"},
    ),
    "boasts_of_a_gpu": (
        'loads=("torch",)),',
        'loads=("torch",)), Offer(device="cuda", exports=("x",)),',
        {"test_every_offer_has_its_hook", "test_an_unknown_machine_has_no_gpu"},
    ),
    "knows_linux_only": (
        "    return Support",
        '    if hardware.system != "linux":\n        raise KeyError(hardware.system)\n    return Support',
        {
            "test_probing_for_other_systems_does_not_fail",
        },
    ),
    "promises_a_hook": (
        'loads=("torch",)',
        'loads=("torch",), quantizes=(Transform(takes="torch", gives="torch"),)',
        {"test_every_offer_has_its_hook"},
    ),
    "heavy_entry_module": ('BACKEND = "', 'import numpy\n\nBACKEND = "', {"test_its_entry_module_and_probe_are_light"}),
    "unknown_hook": ("def infer(", "def inferr(", {"test_it_is_found_once_and_ready"}),
    "failing_probe": (
        "    return Support",
        '    raise OSError("driver 7 is broken")\n    return Support',
        {"test_it_is_found_once_and_ready"},
    ),
}

#: The same for `STUB`, on which only the tests named here are run.
STUB_FAULTS: Mapping[str, tuple[str, str, set[str]]] = {
    "stub_none": ("", "", set()),
    "stub_crashes": (_UNFIT, "__import__('os').abort()", {"test_damaged_files_are_refused"}),
    "stub_foreign_error": (_UNFIT, "raise ValueError(path)", {"test_damaged_files_are_refused"}),
    "stub_no_remedy": (_UNFIT, "raise SessionError(BACKEND, 'damaged', '')", {"test_damaged_files_are_refused"}),
    "stub_takes_damaged_files": (_UNFIT, "return b''", {"test_damaged_files_are_refused"}),
    "stub_leaks": (
        "    return raw\n",
        "    kept.append(bytearray(b'x' * 1_000_000))\n    return raw\n\n\nkept = []\n",
        {"test_sessions_do_not_leak"},
    ),
    "stub_leaks_threads": (
        "    return raw\n",
        "    Thread(target=Event().wait, daemon=True).start()\n    return raw\n\n\n"
        "from threading import Event, Thread\n",
        {"test_sessions_do_not_leak"},
    ),
    "stub_leaks_handles": (
        "    return raw\n",
        "    kept.append(open(path, 'rb'))\n    return raw\n\n\nkept = []\n",
        {"test_sessions_do_not_leak"},
    ),
    "stub_depends_on_the_process": (
        "1.0, np.float32",
        "__import__('os').getpid(), np.float32",
        {"test_another_process_gives_the_same"},
    ),
}
#: The same for `COMPILER`.
COMPILER_FAULTS: Mapping[str, tuple[str, str, set[str]]] = {
    "compiler_none": ("", "", set()),
    "compiler_hides_what_it_read": (", compiled_from=read", "", {"test_it_agrees_with_eager_at_unseen_shapes"}),
    "compiler_reads_something_else": (
        "compiled_from=read)\n",
        f"compiled_from=halved(read, request.output / 'read'))\n\n{_HALVED}",
        {"test_it_agrees_with_eager_at_unseen_shapes"},
    ),
}
#: The same for `QUANTIZER`.
QUANTIZER_FAULTS: Mapping[str, tuple[str, str, set[str]]] = {
    "quantizer_none": ("", "", set()),
    "quantizer_runs_a_scheme_wrongly": (
        _RUN,
        _RUN
        + "        if self.scheme == 'int4':\n"
        + "            outputs = {key: array * 2 for key, array in outputs.items()}\n",
        {"test_every_scheme_that_it_runs_is_right"},
    ),
}
#: Every fault with the backend that it is a fault of.
BASES = ((GOOD, FAULTS), (STUB, STUB_FAULTS), (COMPILER, COMPILER_FAULTS), (QUANTIZER, QUANTIZER_FAULTS))
ALL = {fault: item for _, faults in BASES for fault, item in faults.items()}
#: The tests that run on `STUB` and its faults.
STUB_TESTS = ("test_damaged_files_are_refused", "test_sessions_do_not_leak", "test_another_process_gives_the_same")
