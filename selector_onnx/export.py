"""Writes a trained Selector into a bundle as a tiny ONNX graph: normalisation inside, fingerprints in its metadata."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from edge_vqa import bundle as bundles
from edge_vqa import trace
from edge_vqa.bundle import Bundle, Manifest, SelectorInfo
from edge_vqa.errors import EdgeVqaError
from selector_onnx.train import Trained

FILE = "selector.onnx"
MAX_BYTES = 1_000_000


def graph(trained: Trained) -> bytes:
    """The ONNX model: inputs by feature name [n, d], output `confidence` [n, 1]."""
    import numpy as np
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes, constants, inputs, normalised = [], [], [], []

    def constant(name: str, values: object) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
        return name

    for name in trained.inputs:
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", len(trained.mean[name])]))
        nodes.append(helper.make_node("Sub", [name, constant(f"{name}_mean", trained.mean[name])], [f"{name}_centred"]))
        factor = constant(f"{name}_factor", 1 / trained.scale[name])
        nodes.append(helper.make_node("Mul", [f"{name}_centred", factor], [f"{name}_normal"]))
        normalised.append(f"{name}_normal")
    nodes.append(helper.make_node("Concat", normalised, ["x"], axis=1))
    value = "x"
    for number, (weight, bias) in enumerate(trained.layers):
        names = [value, constant(f"weight_{number}", weight), constant(f"bias_{number}", bias)]
        nodes.append(helper.make_node("Gemm", names, [f"linear_{number}"], transB=1))
        value = f"linear_{number}"
        if number < len(trained.layers) - 1:
            nodes.append(helper.make_node("Relu", [value], [f"relu_{number}"]))
            value = f"relu_{number}"
    nodes.append(helper.make_node("Sigmoid", [value], ["confidence"]))
    output = helper.make_tensor_value_info("confidence", TensorProto.FLOAT, ["n", 1])
    model = helper.make_model(
        helper.make_graph(nodes, "selector", inputs, [output], constants),
        producer_name="edge-vqa",
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    helper.set_model_props(
        model,
        {
            "schema": str(trained.origin.schema),
            "lm_sha256": trained.origin.lm_sha256,
            "vision_sha256": trained.origin.vision_sha256,
            "trained_on": trained.origin.data,
        },
    )
    checker.check_model(model)
    return bytes(model.SerializeToString())


def export(trained: Trained, bundle: Bundle) -> int:
    """Put the Selector into the bundle; operating points of the old one go. Returns the size in bytes."""
    files = bundle.manifest.files
    if bundle.fingerprint != trained.origin.fingerprint:
        raise EdgeVqaError(
            f"this Selector was trained on traces of another bundle ({trained.origin.model})",
            f"collect traces of {bundle.name} and train on them",
        )
    if trained.origin.schema != trace.SCHEMA:
        raise EdgeVqaError("this Selector was trained on another feature schema", "collect the traces again and train on them")
    data = graph(trained)
    if len(data) > MAX_BYTES:
        raise EdgeVqaError(f"the Selector takes {len(data):,} bytes, {MAX_BYTES:,} are allowed", "train a smaller one")
    path = bundle.folder / FILE
    bundles.write_whole(path, lambda stream: stream.write(data))
    manifest = dataclasses.replace(
        bundle.manifest,
        files={**{role: file for role, file in files.items() if role != "selector"}, "selector": bundles.describe(path)},
        selector=SelectorInfo(
            schema=trained.origin.schema,
            dimensions={name: len(trained.mean[name]) for name in trained.inputs},
            lm_sha256=trained.origin.lm_sha256,
            vision_sha256=trained.origin.vision_sha256,
        ),
        operating_points=(),
    )
    write_manifest(bundle.folder, manifest)
    return len(data)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace `bundle.json` whole."""
    bundles.write_whole(folder / bundles.MANIFEST, lambda stream: stream.write(bundles.render(manifest).encode()))
