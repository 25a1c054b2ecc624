"""The certificate of an audit on the page: its facts, and the plot of risk against coverage."""

from collections.abc import Iterator
from pathlib import Path

from ecor.evaluation.risk_control import RiskCoverage
from ecor.storage import filesystem
from pipelines.reporting.embedded_image import read_png
from pipelines.reporting.html_page import Plot
from pipelines.reporting.plotting import INK, new_figure, save_figure

CURVE_NAME = "risk_coverage.png"


def draw_risk_coverage(
    curve: RiskCoverage, path: Path, *, right: float, sure: float, accepted: float | None, reasons: bool
) -> None:
    """Plot the share of wrong labels among those accepted, against the share that is accepted.

    Args:
        curve: with its band.
        path: of the PNG.
        right: promised share of right labels.
        sure: level of the band.
        accepted: share that the certificate accepts; None for none.
        reasons: whether a right label also needs a visible rationale.
    """
    figure = new_figure(width=6.0, height=3.8)
    axes = figure.subplots()
    axes.fill_between(curve.coverage, curve.low, curve.high, color="#5b8fb0", alpha=0.25, linewidth=0)
    axes.plot(curve.coverage, curve.risk, color="#5b8fb0", label="judged wrong")
    axes.axhline(1 - right, color="#c2502e", linewidth=1.0, linestyle=(0, (4, 3)), label="allowed")
    if accepted is not None:
        axes.axvline(accepted, color=INK, linewidth=1.0, label="accepted")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.set_xlabel("share of labels at or above a threshold")
    axes.set_ylabel("wrong, or reason not visible" if reasons else "wrong")
    axes.set_title(f"band: {100 * sure:g} % for each point on its own (exact binomial)", size=9)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    save_figure(figure, path)


def read_risk_coverage(folder: str) -> Iterator[Plot]:
    """The plot in a folder of `ecor audit`; none where there is none."""
    try:
        data = filesystem.read(filesystem.join(folder, CURVE_NAME))
    except FileNotFoundError:
        return
    yield Plot(title="Wrong labels against accepted labels", picture=read_png(data))
