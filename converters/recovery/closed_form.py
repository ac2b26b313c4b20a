"""Recovery without training: a gain for each block that brings the layers' outputs back, in closed form.

Layer by layer, as in GPTQ (Frantar et al., ICLR 2023, arXiv 2210.17323), but with the codes held. What each linear should have
put out is known from the teacher: queries, keys, values and the MLP's inner states as the teacher has them; of attention's and
the MLP's outputs, what brings the student's own stream to where the teacher's is, so that errors of the layers before are made
good too. For a row of a matrix with blocks k the gains g minimise, over the tokens t,

    sum_t w_t (y_t - sum_k g_k q_k . x_tk)^2 + lambda |g - 1|^2,

a system of as many equations as a row has blocks; lambda is `RIDGE` times the mean of the system's diagonal. Tokens of pictures
and tokens behind them weigh the same in sum; what is before a picture is the same for every question, and counts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from converters.options import Progress
from converters.quantisers.mbq import GROUPS
from converters.recovery import training
from converters.recovery.asked import IMAGE, Shown
from converters.recovery.student import Held, Lm, Student
from converters.recovery.training import Recovered, Teacher

ROWS = 64  # pictures
RIDGE = 0.1
AT_ONCE = 64  # rows of a matrix


def recover(student: Student, master: Teacher, rows: Sequence[Shown], progress: Progress) -> tuple[Student, Recovered]:
    """student: with codes that are held. It is handed back as it came where the solution is worse on what is held back by more
    than chance: the mean KL hangs on a few unsure answers, so it has to rise by more than its standard error."""
    held_back, taught = training.apart(rows)
    before = training.look(student, master, rows, held_back)
    plain = {key: value.clone() for key, value in student.state_dict().items()}
    layers = student.decoder.layers
    solve(student, master.lm, [rows[n] for n in taught], lambda done: progress("solving for gains", done, layers))
    after = training.look(student, master, rows, held_back)
    rise = after[0] - before[0]
    if not rise.mean() <= rise.std() / len(rise) ** 0.5:
        student.load_state_dict(plain)
        after = before
    means = [(float(kl.mean()), float(away.mean())) for kl, away in (before, after)]
    return student, Recovered(means[0], means[1], 0, False)


@torch.no_grad()  # type: ignore[untyped-decorator]
def solve(student: Student, teacher: Lm, rows: Sequence[Shown], progress: Callable[[int], None] = lambda done: None) -> None:
    """Set the gains of every matrix whose codes are held. progress: is told the layers done."""
    some = list(rows[:: max(1, len(rows) // ROWS)][:ROWS])
    (ours, angles, spans), (theirs, _, _) = student.entering(some), teacher.entering(some)
    weight = torch.cat([_weights(row) for row in some])
    for number in range(student.decoder.layers):
        w, wanted = teacher.weights(number), dict[str, Tensor]()
        after = teacher.decoder.layer(theirs, w, angles, wanted.__setitem__, spans)
        for group, (linears, _) in GROUPS.items():
            seen: dict[str, Tensor] = {}
            own = student.weights(number)
            student.decoder.layer(ours, own, angles, seen.__setitem__, spans)
            x = seen[group]
            moment = x.T @ (x * weight[:, None])
            for part in linears:
                matrix = student.matrices[student.layers[number][f"{part}.weight"]]
                if not isinstance(matrix, Held):
                    continue
                if group == "attn_output":
                    target = theirs + wanted["attention"] - ours
                elif group == "ffn_down":
                    target = after - ours - seen["attention"]
                else:
                    target = linear(wanted[group], w[f"{part}.weight"])
                matrix.gains.copy_(gains(matrix.values, matrix.gains.shape[1], moment, x.T @ (target * weight[:, None])))
        ours = student.decoder.layer(ours, student.weights(number), angles, spans=spans)
        theirs = after
        progress(number + 1)


def gains(values: Tensor, blocks: int, moment: Tensor, cross: Tensor) -> Tensor:
    """values: [out, in]. moment: of the inputs, [in, in]; cross: of inputs with wanted outputs, [in, out]. -> [out, blocks]."""
    found = []
    for some, wanted in zip(values.split(AT_ONCE), cross.T.split(AT_ONCE), strict=True):
        rows = some.view(len(some), blocks, -1)  # [rows, blocks, in a block]
        half = torch.einsum("rkb,kbj->rkj", rows, moment.view(blocks, rows.shape[2], -1))
        system = torch.einsum("rklc,rlc->rkl", half.view(len(some), blocks, blocks, -1), rows)
        ridge = RIDGE * system.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-20)
        known = (rows * wanted.view_as(rows)).sum(2) + ridge[:, None]
        found.append(torch.linalg.solve(system + torch.diag_embed(ridge[:, None].expand(-1, blocks)), known))
    return torch.cat(found)


def _weights(row: Shown) -> Tensor:
    """Of each token, float32 [n]."""
    image, text = row.tokens == IMAGE, row.segment > 0
    return image / image.sum().clamp_min(1) + text / text.sum().clamp_min(1)
