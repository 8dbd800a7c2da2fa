"""Helpers for authors of backends: what most plugins need besides the hooks and types, implemented and tested once.

| for | names |
|---|---|
| the probe | `present`, `missing`, `package_folder`, `versions`, `limits` |
| options | `read_options`, `no_options`, `whole`, `said`, `allowed` |
| errors of other libraries | `foreign_errors`, `brief`; for their output, `silence` |
| exporting | `check_export`, `exported`; with torch, `optimum_core.backend.tracing` |
| models of other packages | `generator_of` for a decoder with its cache, `generator_behind` behind an encoder |
| quantizing | `check_quantization`, `check_fields`, `check_calibration`, `refused`, `quantized` |
| layers by their names | `unwrapped`, `matching_layers` |
| the processor | `overflows`, `sums_widely`, `needs_wide_sums` |
| compiled code | `processor_stamp`, `processor_problem` |
| energy | `EnergyMeter`, `EnergyEstimate`, `energy_estimate` |
| files | `move_into`, `file_sha256`, `checksum_problem`, `interface_problems`, `Port` |
| ONNX files | `put_beside`, `weight_bytes` |
| sessions | `run_own`, `check_names`, `check_turn`, `read_input`, `closed`, `described` |
| calling hooks directly | `detect`, `manager`, `export_request` |

Fast to import: the standard library, and modules that core has loaded before it loads a plugin.
"""

from __future__ import annotations

from optimum_core.backend._artifacts import Port, checksum_problem, file_sha256, interface_problems, move_into
from optimum_core.backend._exporting import check_export, export_request, exported
from optimum_core.backend._probing import limits
from optimum_core.backend._processors import processor_problem, processor_stamp
from optimum_core.backend._quantizing import (
    check_calibration,
    check_fields,
    check_quantization,
    matching_layers,
    needs_wide_sums,
    overflows,
    quantized,
    refused,
    sums_widely,
    unwrapped,
)
from optimum_core.backend._sessions import check_names, check_turn, closed, described, read_input, run_own
from optimum_core.errors import brief, foreign_errors
from optimum_core.generation.generator import generator_behind, generator_of
from optimum_core.hardware import detect
from optimum_core.hardware.energy_counters import EnergyMeter
from optimum_core.hardware.energy_estimate import EnergyEstimate, energy_estimate
from optimum_core.models.backends.onnx_files.surgery import put_beside, weight_bytes
from optimum_core.models.silence import silence
from optimum_core.options import allowed, no_options, read_options, said, whole
from optimum_core.packages import missing, package_folder, present, versions
from optimum_core.plugins import manager

__all__ = [
    "EnergyEstimate",
    "EnergyMeter",
    "Port",
    "allowed",
    "brief",
    "check_calibration",
    "check_export",
    "check_fields",
    "check_names",
    "check_quantization",
    "check_turn",
    "checksum_problem",
    "closed",
    "described",
    "detect",
    "energy_estimate",
    "export_request",
    "exported",
    "file_sha256",
    "foreign_errors",
    "generator_behind",
    "generator_of",
    "interface_problems",
    "limits",
    "manager",
    "matching_layers",
    "missing",
    "move_into",
    "needs_wide_sums",
    "no_options",
    "overflows",
    "package_folder",
    "present",
    "processor_problem",
    "processor_stamp",
    "put_beside",
    "quantized",
    "read_input",
    "read_options",
    "refused",
    "run_own",
    "said",
    "silence",
    "sums_widely",
    "unwrapped",
    "versions",
    "weight_bytes",
    "whole",
]
