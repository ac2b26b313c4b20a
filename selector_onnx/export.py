"""Writes a trained Selector into a bundle as a tiny ONNX graph: projections inside, fingerprints in its metadata."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from edge_vqa.border.whole import write_bytes
from edge_vqa.bundles import manifest as manifests
from edge_vqa.bundles import store
from edge_vqa.bundles.manifest import Manifest, SelectorInfo
from edge_vqa.bundles.store import Bundle
from edge_vqa.device import admission
from edge_vqa.errors import EdgeVqaError
from edge_vqa.trust import trace
from edge_vqa.trust.confidence import Selector, SelectorEarly
from selector_onnx.collect import Array, Origin
from selector_onnx.train import Trained

MAX_BYTES = 1_000_000


def graph(trained: Trained, *, int8: bool = False) -> bytes:
    """The ONNX model: inputs by feature name [n, d], output `confidence` [n, 1].

    int8: weights are stored in 8 bits, symmetric, one scale an output channel; ONNX Runtime unpacks them when it loads.
    """
    import numpy as np
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes, constants, inputs, projected, confidences = [], [], [], [], []

    def constant(name: str, values: Array) -> str:
        if not int8 or values.ndim < 2:
            constants.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
            return name
        scale = np.maximum(np.abs(values).max(1), 1e-12).astype(np.float32) / 127
        constants.append(numpy_helper.from_array(np.round(values / scale[:, None]).astype(np.int8), f"{name}_int8"))
        constants.append(numpy_helper.from_array(scale, f"{name}_scale"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], axis=0))
        return name

    def linear(value: str, name: str, layer: tuple[Array, Array]) -> str:
        weight, bias = constant(f"{name}_weight", layer[0]), constant(f"{name}_bias", layer[1])
        nodes.append(helper.make_node("Gemm", [value, weight, bias], [name], transB=1))
        return name

    for name, layer in trained.projections.items():
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", layer[0].shape[1]]))
        projected.append(linear(name, f"{name}_projected", layer))
    nodes.append(helper.make_node("Concat", projected, ["x"], axis=1))
    for number, layers in enumerate(trained.members):
        value = "x"
        for depth, layer in enumerate(layers):
            value = linear(value, f"member{number}_{depth}", layer)
            if depth < len(layers) - 1:
                nodes.append(helper.make_node("Relu", [value], [f"{value}_relu"]))
                value = f"{value}_relu"
        nodes.append(helper.make_node("Sigmoid", [value], [f"member{number}"]))
        confidences.append(f"member{number}")
    nodes.append(helper.make_node("Mean", confidences, ["confidence"]))
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


def export(trained: Trained, bundle: Bundle, *, int8: bool = False) -> int:
    """Put the Selector into the bundle; operating points of the old one go. Returns the size in bytes."""
    bundle = of_traces(bundle, trained.origin)
    if trained.origin.schema != trace.SCHEMA:
        raise EdgeVqaError("this Selector was trained on another feature schema", "collect the traces again and train on them")
    data = graph(trained, int8=int8)
    if len(data) > MAX_BYTES:
        raise EdgeVqaError(f"the Selector takes {len(data):,} bytes, {MAX_BYTES:,} are allowed", "try --int8")
    role = SelectorEarly.role if trained.method == SelectorEarly.name else Selector.role
    # A new file beside the old one: whoever is killed before bundle.json is replaced leaves the bundle as it was.
    path = bundle.folder / f"{role}-{hashlib.sha256(data).hexdigest()[:12]}.onnx"
    write_bytes(path, data)
    manifest, known = bundle.manifest, admission.is_known(bundle)
    info = SelectorInfo(
        schema=trained.origin.schema,
        dimensions={name: weight.shape[1] for name, (weight, _) in trained.projections.items()},
        lm_sha256=trained.origin.lm_sha256,
        vision_sha256=trained.origin.vision_sha256,
    )
    files = {**{key: file for key, file in manifest.files.items() if key != role}, role: store.describe(path)}
    changed = dataclasses.replace(without(manifest, trained.method), files=files)
    if role == Selector.role:
        changed = dataclasses.replace(changed, selector=info)
    else:
        changed = dataclasses.replace(changed, selector_early=info)
    write_manifest(bundle.folder, changed)
    if known:
        admission.keep(store.read(bundle.folder))
    old = bundle.files.get(role)
    if old is not None and old != path:
        old.unlink(missing_ok=True)
    return len(data)


def of_traces(bundle: Bundle, origin: Origin) -> Bundle:
    """The bundle, its scores to hold for the vision tower that the traces came from; what was chosen for another tower goes.

    Raises EdgeVqaError for traces of another bundle.
    """
    manifest = bundle.manifest
    towers = [tower for tower in manifests.TOWERS if tower in manifest.files]
    came_from = [tower for tower in towers if bundle.fingerprint_with(tower) == origin.fingerprint]
    if not came_from:
        raise EdgeVqaError(
            f"these traces are of another bundle ({origin.model})", f"collect traces of {bundle.name} and use them"
        )
    if came_from[0] == manifest.runtime.tower:
        return bundle
    changed = dataclasses.replace(
        manifest,
        runtime=dataclasses.replace(manifest.runtime, tower=came_from[0]),
        temperature=None,
        operating_points=(),
        cascades=(),
        calibration=(),
    )
    return dataclasses.replace(bundle, manifest=changed)


def without(manifest: Manifest, method: str) -> Manifest:
    """The manifest without what was chosen for a confidence method."""
    return dataclasses.replace(
        manifest,
        operating_points=tuple(point for point in manifest.operating_points if point.confidence != method),
        calibration=tuple(seen for seen in manifest.calibration if seen.confidence != method),
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace `bundle.json` whole."""
    write_bytes(folder / manifests.MANIFEST, manifests.render(manifest).encode())
