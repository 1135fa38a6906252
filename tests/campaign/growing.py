"""Random graphs: which nodes give what, how often, and what their widgets are set to."""

from __future__ import annotations

import math
import random

PLAIN = "plain MODEL"
PRODUCERS = {  # what an input asks for: {node or (node, output): how often}; the first is a leaf
    PLAIN: {"CampaignModel": 12, "CampaignLora": 2, "ModelSamplingDiscrete": 1,
            "ModelSamplingContinuousEDM": 1, "FreeU": 1, "EasyCache": 1, "RivalPatchModel": 0.3},
    "MODEL": {"CampaignModel": 2, "RivalPatchModel": 16, "RivalBlendedGuidance": 4,
              "FreeU": 1, "FreeU_V2": 1, "HyperTile": 1, "TomePatchModel": 1,
              "PerturbedAttentionGuidance": 1, "SelfAttentionGuidance": 1, "RescaleCFG": 1,
              "ModelSamplingDiscrete": 1, "ModelSamplingContinuousEDM": 1, "CampaignLora": 1,
              "ContextWindowsManual": 1, "EasyCache": 1, "LazyCache": 1, "PerpNeg": 1},
    "RIVAL_CHAIN": {"RivalInvert": 12, "RivalSaveChain": 1, "RivalLoadChain": 1},
    "LATENT": {"EmptyLatentImage": 6, "CampaignPhoto": 2, "SetLatentNoiseMask": 3,
               "LatentUpscale": 1, "RepeatLatentBatch": 1, "LatentFromBatch": 1,
               "LatentBatch": 1, ("RivalInvert", 1): 1, "RivalKSampler": 1, "KSampler": 1},
    "CONDITIONING": {"CampaignPrompt": 14, "ConditioningCombine": 1, "ConditioningAverage": 1,
                     "ConditioningSetProperties": 1, "ConditioningSetTimestepRange": 1,
                     "ConditioningSetMask": 1, "ConditioningSetArea": 1},
    "MASK": {"CampaignMask": 3, "SolidMask": 2, "InvertMask": 1, ("RivalBlendedGuidance", 1): 1},
    "GUIDER": {"CFGGuider": 3, "BasicGuider": 1, "DualCFGGuider": 1, "PerpNegGuider": 1},
    "NOISE": {"RandomNoise": 1, "RivalNoise": 4, "DisableNoise": 1},
    "SIGMAS": {"BasicScheduler": 1, "RivalSigmas": 4, "FlipSigmas": 1},
    "SAMPLER": {"KSamplerSelect": 1},
    "HOOKS": {"CampaignHooks": 1},
    "CLIP": {"CampaignClip": 1},
    "VAE": {"CampaignVae": 1},
    "result": {"RivalKSampler": 5, "SamplerCustomAdvanced": 3, "KSampler": 2,
               "RivalReconstruct": 1},
}
ASKS = {("RivalInvert", "model"): PLAIN, ("RivalReconstruct", "model"): PLAIN}
PINNED = {  # what an input nearly always takes
    ("RivalInvert", "latent"): "CampaignPhoto", ("RivalInvert", "positive"): "CampaignPrompt",
    ("RivalInvert", "negative"): "CampaignPrompt",
    ("RivalPatchModel", "exemplar_mask"): "CampaignMask",
}
ENDS = ("RivalSaveChain", "RivalChainReport")  # beside what is kept, sometimes
SHARED = {"CONDITIONING": 0.4, "MODEL": 0.3, "RIVAL_CHAIN": 0.7, "CLIP": 1.0, "VAE": 1.0}
OPTIONAL = {  # how often an input is connected
    "vae": 0.3, "negative": 0.4, "sigmas": 0.05, "latent": 0.4, "hooks": 0.3, "mask": 0.4,
    "exemplar_mask": 0.2, "chain": 0.97, "clip": 0.97, ("RivalBlendedGuidance", "mask"): 0.97,
}
RANGES = {  # narrower than a node's own, to be quick
    "steps": (1, 5), ("RivalInvert", "steps"): (5, 7), "width": (16, 96), "height": (16, 96),
    "batch_size": (1, 2), "amount": (1, 2), "length": (1, 2), "cfg": (0.0, 9.0),
    "iterations": (1, 3), "tile_size": (8, 64), "context_length": (2, 8), "dim": (0, 3),
    "context_overlap": (0, 3), "context_stride": (1, 2), "anderson_window": (1, 3),
    "sigma_max": (20.0, 120.0), "sigma_min": (0.002, 0.1),
}
CHOICES = {  # in place of what a widget declares
    "prompt": ("", *("a red circle",) * 12), "words": ("", "", "circle", "red circle", "a"),
    "filename_prefix": ("../chain", *("campaign/chain",) * 9),
    "chain_file": ("missing.safetensors", *("campaign.safetensors",) * 9),
    "schedule": ("sgm_uniform", "karras", "simple", "rival", "rival", "rival"),
    ("RivalInvert", "cfg"): (2.0, *(1.0,) * 30),
    "content": ("two", "zeros", "nan", "wide", "small", *("photo",) * 80),
    ("RivalKSampler", "eta"): (1.0, 0.3, *(0.0,) * 14), "value": (0.0, 0.6, *(1.0,) * 8),
}
ENDLESS = "dpm_adaptive"  # takes as many steps as it likes, which are hundreds on random weights
USUAL = {"STRING": "", "INT": 0, "FLOAT": 0.0, "BOOLEAN": False}
JUNK = (-1, 0, 2**64, 1e30, math.nan, math.inf, -math.inf, "", "x", "\n", None, True, [], {},
        "a" * 5000)
DEEPEST = 6


def grow(rng: random.Random, families: tuple[str, ...]) -> dict:
    """A prompt in the HTTP API's format; a few have one widget spoilt."""
    prompt = Gardener(rng, families).graph()
    if rng.random() < 0.15:
        spoil(prompt, rng)
    return prompt


def spoil(prompt: dict, rng: random.Random) -> None:
    """Something else in one widget of this pack's nodes."""
    widgets = [(node["inputs"], name) for node in prompt.values()
               if node["class_type"].startswith("Rival")
               for name, value in node["inputs"].items() if not isinstance(value, list)]
    if widgets:
        inputs, name = rng.choice(widgets)
        inputs[name] = rng.choice(JUNK)


class Gardener:
    """Grows one graph from its end to the loaders."""

    def __init__(self, rng: random.Random, families: tuple[str, ...]):
        self.rng, self.prompt = rng, {}
        self.families, self.family = families, rng.choice(families)
        self.made: dict[str, list] = {}  # links by what they give

    def graph(self) -> dict:
        self.prompt["keep"] = {"class_type": "CampaignKeep",
                               "inputs": {"latent": self.link("result", 0)}}
        if self.rng.random() < 0.25:
            self.add(self.rng.choice(ENDS), 2)
        return self.prompt

    def link(self, asked: str, depth: int) -> list:
        """What is asked for, from a node that is there or from a new one."""
        rng, made = self.rng, self.made.setdefault(asked, [])
        if made and rng.random() < SHARED.get(asked, 0.1):
            return rng.choice(made)
        producers = PRODUCERS[asked]
        if depth >= DEEPEST:
            producers = dict([next(iter(producers.items()))])
        chosen = rng.choices(list(producers), list(producers.values()))[0]
        return self.linked(asked, chosen, depth)

    def linked(self, asked: str, chosen: str | tuple[str, int], depth: int) -> list:
        name, output = (chosen, 0) if isinstance(chosen, str) else chosen
        link = [self.add(name, depth, asked), output]
        self.made.setdefault(asked, []).append(link)
        return link

    def add(self, name: str, depth: int, result: str = "") -> str:
        """A new node's id. Its inputs are what the node itself declares."""
        import nodes

        declared, inputs = nodes.NODE_CLASS_MAPPINGS[name].INPUT_TYPES(), {}
        for key, spec in declared.get("required", {}).items():
            inputs[key] = self.value(name, key, spec, depth, result)
        for key, spec in declared.get("optional", {}).items():
            usual = 0.5 if spec[0] in USUAL or isinstance(spec[0], list) else 0.0
            if self.rng.random() < special(OPTIONAL, name, key, usual):
                inputs[key] = self.value(name, key, spec, depth, result)
        node_id = f"{name}.{len(self.prompt)}"
        self.prompt[node_id] = {"class_type": name, "inputs": inputs}
        return node_id

    def value(self, name: str, key: str, spec: tuple, depth: int, result: str):
        kind, settings = spec[0], spec[1] if len(spec) > 1 else {}
        asked = ASKS.get((name, key), result if (kind, result) == ("MODEL", PLAIN) else kind)
        if (name, key) in PINNED and self.rng.random() < 0.99:
            return self.linked(asked, PINNED[name, key], depth + 1)
        if isinstance(asked, str) and asked in PRODUCERS:
            return self.link(asked, depth + 1)
        return self.widget(name, key, kind, settings)

    def widget(self, name: str, key: str, kind: str | list, settings: dict):
        """Its default, a value in its range, or one of the range's ends."""
        rng = self.rng
        if key == "family":
            return self.family if rng.random() < 0.98 else rng.choice(self.families)
        options = special(CHOICES, name, key)
        if options is None and isinstance(kind, (list, tuple)):
            options = kind
        if options or (options := settings.get("options")):
            options = [option for option in options if option != ENDLESS]
            return rng.choice([settings.get("default", rng.choice(options)), rng.choice(options)])
        if kind == "BOOLEAN":
            return rng.random() < 0.3
        if kind not in ("INT", "FLOAT"):
            return settings.get("default", USUAL.get(kind))
        return self.number(kind, settings, special(RANGES, name, key, (-math.inf, math.inf)))

    def number(self, kind: str, settings: dict, narrower: tuple):
        rng = self.rng
        low, high = max(settings.get("min", 0), narrower[0]), narrower[1]
        high = min(settings.get("max", max(low, 1) if high == math.inf else high), high)
        drawn = rng.randint(low, high) if kind == "INT" else round(rng.uniform(low, high), 2)
        usual = min(max(settings.get("default", low), low), high)
        return rng.choice([*(usual,) * 3, *(drawn,) * 3, low, high])


def special(table: dict, name: str, key: str, otherwise=None):
    """What a table has for this node's input, or for inputs of this name."""
    return table.get((name, key), table.get(key, otherwise))
