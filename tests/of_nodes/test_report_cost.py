"""RIVAL Chain Report on long chains: work in proportion, and an end when it is asked for."""

from __future__ import annotations

import pytest
from made_chains import make_chain

pytestmark = pytest.mark.any_host


def test_the_work_grows_with_the_steps_and_no_faster():
    """How often a curve's numbers are looked at."""
    from comfyui_rival.nodes.pictures import charts

    class Counted(list):
        looked_at = 0

        def __iter__(self):
            for value in super().__iter__():
                Counted.looked_at += 1
                yield value

    def work(steps: int) -> int:
        Counted.looked_at = 0
        curves = [charts.Curve(range(steps), Counted(range(1, steps + 1)), style=style)
                  for style in ("line", "dotted", "bars")]  # fmt: skip
        charts.draw_chart(charts.Chart("", steps, curves, log=True), (300, 200))
        return Counted.looked_at

    assert 0 < work(400) <= 4 * work(100)


@pytest.mark.host
def test_a_report_can_be_interrupted():
    """Between two curves, and between two thumbnails."""
    import comfy.model_management as management
    from comfyui_rival.nodes import chain_report
    from comfyui_rival.nodes.pictures import chain_picture

    def stopped(part, *args):
        management.interrupt_current_processing(True)
        with pytest.raises(management.InterruptProcessingException):
            part(*args)
        assert not management.processing_interrupted()

    chain = make_chain()
    stopped(chain_picture.draw_charts, chain)
    stopped(chain_report.thumbnail, chain, 0, None)


@pytest.mark.parametrize("tolerance", [5e-324, 1.7e308])
def test_a_number_at_the_end_of_what_there_is_can_be_drawn(tolerance):
    """A chain file may say so."""
    from comfyui_rival.nodes.pictures import charts

    chart = charts.Chart("", 3, [charts.Curve([1, 2, 3], [1e-5, 1e-4, 1e-3])],
                         reference=tolerance, log=True)  # fmt: skip
    assert charts.draw_chart(chart, (300, 200)).size == (300, 200)
