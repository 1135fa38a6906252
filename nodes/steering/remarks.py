"""What a run of RIVAL Patch Model has to say in the log, each thing once."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from torch import Tensor

from ...rival_core.chain.chain import Chain
from ...rival_core.steering.exemplar import Exemplar
from ...rival_core.steering.normalization import statistics

NODE = "RIVAL Patch Model"
WIDER = 1.1  # of the noise over the photo's; what this pack starts from differs by far less


def left_out(names: Sequence[str], guidance: Sequence[str] = ()) -> list[str]:
    """Notices of what other nodes put around the model's calls and the photo goes without."""
    notices = []
    if names:
        notices.append(
            f"{', '.join(names)} may remember other model calls, cut them into tiles or bring an "
            "image of the new one's, so the photo goes without"
        )
    if guidance:
        notices.append(f"{', '.join(guidance)} guides samplers only: the photo is seen unguided")
    return notices


class Remarks:
    def __init__(self):
        self.said: set[str] = set()

    def of_other_attention(self, layers: Collection[tuple]) -> None:
        """layers: those whose self-attention another node computes."""
        if layers:
            blocks = ", ".join(sorted(" ".join(map(str, layer)) for layer in layers))
            self.say(
                "attention",
                f"another node computes the self-attention of {blocks}, so those blocks do not "
                "read the exemplar.",
            )

    def of_unread_call(self) -> None:
        self.say(
            "unread",
            "another node skips all blocks of some model calls, or computes their attention in "
            "place of RIVAL, so the photo is not read there.",
        )

    def of_start(self, exemplars: Sequence[Exemplar], x: Tensor, sigma: float) -> None:
        """x: [B, C, h, w], before its first prediction with the photo's statistics.

        Several photos, or one in a part of the image, start from what no single chain tells.
        """
        if "start" in self.said or len(exemplars) != 1 or exemplars[0].mask is not None:
            return
        (exemplar,) = exemplars
        photo = exemplar.statistics(exemplar.chain.at(sigma).to(x))
        ratio = float((statistics(x).var.mean() / photo.var.mean()).sqrt())
        if 1 / WIDER <= ratio <= WIDER:
            return self.said.add("start")
        self.say(
            "start",
            f"sampling starts from noise of {ratio:.2f} times the spread of the photo's own, which "
            "normalize_end does not fit: take RIVAL KSampler or RIVAL Noise, or set normalize_end "
            "to 0.",
        )

    def of_torn_chain(self, chains: Sequence[Chain], sigma: float) -> None:
        """Between the noise levels of independent latents there is no photo to read."""
        for chain in chains:
            if chain.is_torn_at(sigma):
                self.say(
                    "torn",
                    "the sampler asks between the noise levels of a chain by "
                    f"{chain.solver.name}, whose latents are independent of each other: take one "
                    "that keeps to them, such as euler or chain.",
                )

    def of_kept_out(self, names: Sequence[str]) -> None:
        """names: of what other nodes wrap around the image's calls."""
        for notice in left_out(names):
            self.say("kept out", f"{notice}.")

    def of_memory(self) -> None:
        self.say("memory", "memory was short with the photo's row among the image's, so it runs "
                 "in a call of its own.")  # fmt: skip

    def of_unknown_role(self, name: str | None) -> None:
        """name: under which a guider keeps a prompt."""
        self.say(
            f"role {name}",
            f"nothing tells whether the sampler's prompt {name or 'without a name'!r} is a "
            "negative one, so its rows read the photo as inverted with positive.",
        )

    def of_no_unconditional(self) -> None:
        self.say(
            "unconditional",
            "there is no unconditional prediction to blend with (no negative, or a cfg of 1), so "
            "the mask changes nothing.",
            "RIVAL Blended Guidance",
        )

    def say(self, kind: str, text: str, node: str = NODE) -> None:
        if kind not in self.said:
            self.said.add(kind)
            logging.warning("%s: %s", node, text)
