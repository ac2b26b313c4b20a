"""Figures of a study: the paper's, accuracy and coverage at risk along the mix from ID to OOD; and both against size."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from edge_vqa.work.evaluation import RISKS
from selector_onnx.study import BASELINE_SELECTOR, MAXPROB, SELECTOR, Study
from selector_onnx.study_config import Mix

STYLES = {MAXPROB: ("--", "MaxProb"), SELECTOR: ("-", "Selector")}


def figure(study: Study) -> bytes:
    """PNG: one panel for accuracy, one for each risk; a colour a bundle, dashed MaxProb, solid its own Selector."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    config = study.config
    mixes = config.measured
    panels = ["accuracy", *(f"coverage_at_{risk:g}" for risk in RISKS if risk >= 0.05), "ece"]
    titles = [
        "accuracy when always answering, %",
        *(f"coverage at {risk:.0%} risk, %" for risk in RISKS if risk >= 0.05),
        "ECE",
    ]
    drawn, axes = plt.subplots(1, len(panels), figsize=(3.6 * len(panels), 4.4), layout="constrained")
    colours = plt.get_cmap("viridis")
    for axis, name, title in zip(axes, panels, titles, strict=True):
        for number, entry in enumerate(config.bundle):
            for confidence, (line, label) in STYLES.items():
                if name == "accuracy" and confidence != MAXPROB:
                    continue
                factor = 1 if name == "ece" else 100
                cells = [study.cells.get((entry.folder, confidence, mix)) for mix in mixes]
                values = [float("nan") if cell is None else cell.values[name] * factor for cell in cells]
                colour = colours(number / max(1, len(config.bundle) - 1) * 0.9)
                style = "-" if name == "accuracy" else line
                axis.plot(range(len(mixes)), values, style, marker="o", ms=3, color=colour, label=f"{entry.label}, {label}")
        axis.set_title(title, fontsize=10)
        axis.set_xticks(
            range(len(mixes)),
            [str(mix) for mix in mixes],
            rotation=0 if len(config.sets) == 1 else 60,
            ha="center" if len(config.sets) == 1 else "right",
        )
        axis.set_xlabel("ID;OOD, %")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    handles, labels = axes[-1].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=min(8, len(config.bundle)), fontsize=8)
    return _png(plt, drawn)


def against_size(
    study: Study, mixes: Sequence[Mix], sizes: Mapping[str, float], recovered: Collection[str], risk: float = 0.05
) -> bytes:
    """PNG: accuracy above, coverage at a risk below, a column for each mix. sizes: MB by the bundle's folder; recovered: the
    folders that stand out; the main one has its name at it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    config, coverage = study.config, f"coverage_at_{risk:g}"
    drawn, axes = plt.subplots(2, len(mixes), figsize=(3.4 * len(mixes), 6.4), layout="constrained", sharex=True)
    for mix, (above, below) in zip(mixes, axes.T, strict=True):
        for axis, name, shown in (
            (above, "accuracy", {MAXPROB: "o"}),
            (below, coverage, {MAXPROB: "o", BASELINE_SELECTOR: "^", SELECTOR: "^"}),
        ):
            whole = study.cells[config.baseline, MAXPROB, mix].values[name] * 100
            axis.axhline(whole, color="tab:grey", lw=1, ls="--")
            for entry in config.bundle:
                for confidence, marker in shown.items():
                    cell = study.cells.get((entry.folder, confidence, mix))
                    if cell is None or (confidence == BASELINE_SELECTOR and entry.selector):
                        continue
                    colour = "tab:orange" if entry.folder in recovered else "tab:blue"
                    value, by_itself = cell.values[name] * 100, confidence == MAXPROB
                    face = "none" if by_itself and axis is below else colour
                    axis.plot(sizes[entry.folder], value, marker, ms=6, color=colour, mfc=face)
                    if entry.folder == config.main and by_itself and axis is above:
                        axis.annotate(entry.label, (sizes[entry.folder], value), (6, -3), textcoords="offset points", size=7)
            axis.set_xscale("log")
            axis.grid(alpha=0.3)
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
            axis.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
            axis.xaxis.set_minor_locator(NullLocator())
        above.set_title(mix.ood or "ID", fontsize=10)
        below.set_xlabel("bundle, MB")
    axes[0, 0].set_ylabel("accuracy when always answering, %")
    axes[1, 0].set_ylabel(f"coverage at {risk:.0%} risk, %")
    baseline = next(entry.label for entry in config.bundle if entry.folder == config.baseline)
    handles: list[Any] = [
        plt.Line2D([], [], ls="--", color="tab:grey", label=f"{baseline}, MaxProb"),
        plt.Line2D([], [], ls="", marker="o", mfc="none", color="tab:blue", label="MaxProb"),
        plt.Line2D([], [], ls="", marker="^", color="tab:blue", label="Selector"),
        plt.Line2D([], [], ls="", marker="s", color="tab:orange", label="recovered"),
    ]
    drawn.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9)
    return _png(plt, drawn)


def _png(plt: Any, drawn: Any) -> bytes:
    stream = io.BytesIO()
    plt.savefig(stream, format="png", dpi=110)
    plt.close(drawn)
    return stream.getvalue()
