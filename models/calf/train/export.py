"""Writes the Hugging Face folder (bfloat16 safetensors) of a checkpoint; reads weights back from such a folder.

    python export.py --checkpoint DIR/checkpoint.pt --out FOLDER [--like ../]
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from model import Calf, Config

COPIED = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def load_weights(model: Calf, folder: Path) -> None:
    weights = {k: v.float() for k, v in load_file(folder / "model.safetensors").items() if k != "lm_head.weight"}
    model.load_state_dict(weights)


def export(model: Calf, out: Path, like: Path) -> None:
    """Weights and config.json of `model`; tokenizer and chat template copied from the folder `like`."""
    out.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.detach().to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()},
        out / "model.safetensors",
        metadata={"format": "pt"},
    )
    (out / "config.json").write_text(json.dumps(model.config.hugging_face(), indent=1) + "\n")
    for name in COPIED:
        if (like / name).exists() and like.resolve() != out.resolve():
            shutil.copyfile(like / name, out / name)
    settings = out / "tokenizer_config.json"
    if settings.exists():
        have = json.loads(settings.read_text())
        have["model_max_length"] = model.config.max_position_embeddings
        settings.write_text(json.dumps(have, indent=1) + "\n")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--checkpoint", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--like", type=Path, default=Path(__file__).resolve().parent.parent)
    a = p.parse_args()
    state = torch.load(a.checkpoint, weights_only=False)
    model = Calf(Config())
    model.load_state_dict(state["model"])
    export(model, a.out, a.like)


if __name__ == "__main__":
    main()
