"""Writes a trained Selector, or familiarity, into a bundle as a tiny ONNX graph with fingerprints in its metadata."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from edge_vqa.border.whole import write_bytes
from edge_vqa.bundles import manifest as manifests
from edge_vqa.bundles import store
from edge_vqa.bundles.manifest import EstimatorInfo, Manifest
from edge_vqa.bundles.store import Bundle
from edge_vqa.device import admission
from edge_vqa.errors import EdgeVqaError
from edge_vqa.trust import familiarity, trace
from edge_vqa.trust.confidence import Selector, SelectorEarly
from edge_vqa.trust.familiarity import Numbers
from selector_onnx.collect import Array, Origin
from selector_onnx.familiarity import FAR, WEIGHTS, Ladder, Learned
from selector_onnx.train import Trained

MAX_BYTES = 1_000_000


class _Graph:
    """An ONNX graph over features [n, d], piece by piece.

    int8: matrices are stored in 8 bits, symmetric, one scale an output channel; ONNX Runtime unpacks them when it loads.
    """

    def __init__(self, widths: Mapping[str, int], *, int8: bool) -> None:
        from onnx import TensorProto, helper, numpy_helper

        self._helper, self._stored, self._float, self._int8 = helper, numpy_helper.from_array, TensorProto.FLOAT, int8
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._inputs = [helper.make_tensor_value_info(name, self._float, ["n", width]) for name, width in widths.items()]

    def node(self, kind: str, inputs: Sequence[str], output: str, **how: Any) -> str:
        self._nodes.append(self._helper.make_node(kind, list(inputs), [output], **how))
        return output

    def constant(self, name: str, values: Numbers) -> str:
        if not self._int8 or values.ndim < 2:
            self._constants.append(self._stored(np.ascontiguousarray(values, np.float32), name))
            return name
        scale = np.maximum(np.abs(values).max(1), 1e-12).astype(np.float32) / 127
        codes = np.round(values / scale[:, None]).astype(np.int8)
        self._constants += [self._stored(codes, f"{name}_int8"), self._stored(scale, f"{name}_scale")]
        return self.node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], name, axis=0)

    def linear(self, value: str, name: str, layer: tuple[Numbers, Numbers]) -> str:
        """name: of what comes out."""
        stored = [self.constant(f"{name}_weight", layer[0]), self.constant(f"{name}_bias", layer[1])]
        return self.node("Gemm", [value, *stored], name, transB=1)

    def mlp(self, value: str, name: str, layers: Sequence[tuple[Array, Array]]) -> str:
        """Linear layers with ReLU between."""
        for depth, layer in enumerate(layers):
            value = self.linear(value, f"{name}_{depth}", layer)
            if depth < len(layers) - 1:
                value = self.node("Relu", [value], f"{value}_relu")
        return value

    def clip(self, value: str, name: str, low: float, high: float) -> str:
        ends = [self.constant(f"{name}_{end}", np.array(number, np.float32)) for end, number in (("low", low), ("high", high))]
        return self.node("Clip", [value, *ends], name)

    @contextmanager
    def exactly(self) -> Iterator[None]:
        """What is added meanwhile is stored as it is."""
        before, self._int8 = self._int8, False
        yield
        self._int8 = before

    def finish(self, output: str, origin: Origin) -> bytes:
        from onnx import checker

        helper = self._helper
        made = helper.make_tensor_value_info(output, self._float, ["n", 1])
        model = helper.make_model(
            helper.make_graph(self._nodes, output, self._inputs, [made], self._constants),
            producer_name="edge-vqa",
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=9,
        )
        told = {"schema": str(origin.schema), "lm_sha256": origin.lm_sha256, "vision_sha256": origin.vision_sha256}
        helper.set_model_props(model, told | {"trained_on": origin.data})
        checker.check_model(model)
        return bytes(model.SerializeToString())


def graph(trained: Trained, *, int8: bool = False) -> bytes:
    """The ONNX model of a Selector: inputs by feature name [n, d], output `confidence` [n, 1]. int8: see `_Graph`."""
    g = _Graph({name: weight.shape[1] for name, (weight, _) in trained.projections.items()}, int8=int8)
    projected = [g.linear(name, f"{name}_projected", layer) for name, layer in trained.projections.items()]
    g.node("Concat", projected, "x", axis=1)
    members = [
        g.node("Sigmoid", [g.mlp("x", f"member{number}", layers)], f"member{number}")
        for number, layers in enumerate(trained.members)
    ]
    g.node("Mean", members, "confidence")
    return g.finish("confidence", trained.origin)


def familiarity_graph(learned: Learned, *, int8: bool = False) -> bytes:
    """The ONNX model of familiarity, as `Learned.score_features`: output `familiarity` [n, 1]. int8: see `_Graph`; what makes
    a score of an estimate stays exact."""
    g = _Graph({name: len(scale.middle) for name, scale in learned.scales.items()}, int8=int8)

    def ladder(value: str, name: str, steps: Ladder) -> str:
        widths = np.diff(steps.knots)
        with g.exactly():
            places = g.linear(value, f"{name}_places", (1 / widths[:, None], -steps.knots[:-1] / widths))
            climbed = g.clip(places, f"{name}_climbed", 0, 1)
            return g.linear(climbed, f"{name}_score", (np.diff(steps.values)[None], steps.values[:1]))

    z = {}
    for name, scale in learned.scales.items():
        away = g.node("Sub", [name, g.constant(f"{name}_middle", scale.middle)], f"{name}_away")
        scaled = g.node("Mul", [away, g.constant(f"{name}_share", 1 / scale.spread)], f"{name}_scaled")
        z[name] = g.clip(scaled, f"{name}_z", -FAR, FAR)
    g.node("Concat", list(z.values()), "z", axis=1)
    members = [g.mlp("z", f"member{number}", layers) for number, layers in enumerate(learned.members)]
    estimates = {"exposed": g.node("Mean", members, "exposed")}
    for name, distance in learned.distances.items():
        k, d = distance.axes.shape
        # along a narrow axis, a rounded direction would measure the wide ones
        with g.exactly() if k == d - 1 else nullcontext():
            along = g.linear(z[name], f"{name}_along", (distance.axes, np.zeros(k, np.float32)))
        squares = g.node("Concat", [g.node("Mul", [v, v], f"{v}_squared") for v in (along, z[name])], f"{name}_squares", axis=1)
        with g.exactly():
            gains = -np.concatenate([distance.gains, np.full(d, distance.gain, np.float32)])[None]
            estimates[name] = g.linear(squares, f"{name}_distance", (gains, np.zeros(1, np.float32)))
    *ladders, last = learned.ladders
    scores = [ladder(value, name, steps) for (name, value), steps in zip(estimates.items(), ladders, strict=True)]
    with g.exactly():
        summed = g.linear(g.node("Concat", scores, "scores", axis=1), "summed", (np.array([WEIGHTS]), np.zeros(1)))
    g.node("Clip", [ladder(summed, "familiar", last), "familiar_climbed_low", "familiar_climbed_high"], "familiarity")
    return g.finish("familiarity", learned.origin)


def export(trained: Trained, bundle: Bundle, *, int8: bool = False) -> int:
    """Put the Selector into the bundle; operating points of the old one go. Returns the size in bytes."""
    role = SelectorEarly.role if trained.method == SelectorEarly.name else Selector.role
    dimensions = {name: weight.shape[1] for name, (weight, _) in trained.projections.items()}
    bundle = of_traces(bundle, trained.origin)
    changed = without(bundle.manifest, trained.method)
    return _put(role, graph(trained, int8=int8), trained.origin, dimensions, bundle, changed)


def export_familiarity(learned: Learned, bundle: Bundle, *, int8: bool = False) -> int:
    """Put familiarity into the bundle; operating points, which held for another, go. Returns the size in bytes."""
    dimensions = {name: len(scale.middle) for name, scale in learned.scales.items()}
    bundle = of_traces(bundle, learned.origin)
    changed = dataclasses.replace(bundle.manifest, operating_points=(), cascades=(), calibration=())
    return _put(familiarity.ROLE, familiarity_graph(learned, int8=int8), learned.origin, dimensions, bundle, changed)


def _put(role: str, data: bytes, origin: Origin, dimensions: dict[str, int], bundle: Bundle, manifest: Manifest) -> int:
    """Write a graph into the bundle's folder, beside the old one, and `manifest` with it."""
    if origin.schema != trace.SCHEMA:
        raise EdgeVqaError("this was trained on another feature schema", "collect the traces again and train on them")
    if len(data) > MAX_BYTES:
        raise EdgeVqaError(f"the {role} takes {len(data):,} bytes, {MAX_BYTES:,} are allowed", "try --int8")
    # A new file beside the old one: whoever is killed before bundle.json is replaced leaves the bundle as it was.
    path = bundle.folder / f"{role}-{hashlib.sha256(data).hexdigest()[:12]}.onnx"
    write_bytes(path, data)
    known = admission.is_known(bundle)
    info = EstimatorInfo(origin.schema, dimensions, origin.lm_sha256, origin.vision_sha256)
    files = {**{key: file for key, file in manifest.files.items() if key != role}, role: store.describe(path)}
    changes: dict[str, Any] = {"files": files, role: info}
    write_manifest(bundle.folder, dataclasses.replace(manifest, **changes))
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
