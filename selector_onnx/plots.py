"""The paper's figure of a study: accuracy, and coverage at risk, along the mix from ID to OOD."""

from __future__ import annotations

import io

from edge_vqa.work.evaluation import RISKS
from selector_onnx.study import MAXPROB, SELECTOR, Study

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
    stream = io.BytesIO()
    plt.savefig(stream, format="png", dpi=110)
    plt.close(drawn)
    return stream.getvalue()
