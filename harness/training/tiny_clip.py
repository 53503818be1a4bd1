"""``bench train tiny-clip``: train the embedded model on scenes and captions of ``shapes``.  It never sees a mask.

The recipe is contrastive language-image training (Radford et al., ICML 2021) of a stock ``open_clip.CLIP`` in two
stages: crops of half the side first (a random window of the position embedding, four times cheaper per image), whole
scenes second.  Two choices matter for dense use and are explained in ``docs/design/tiny-world.md``:

* In 65 % of the steps the class token may not look at patches before the last (60 %) or last-but-one (40 %) block, so
  that patches have to assemble objects themselves.
* Attention is written as plain matrix products: on a CPU that is about three times faster than the backward pass of
  the fused kernel, and gives the same numbers.
"""

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...datasets.shapes import SIZE_PX, caption_words
from ...methods.core.vocabulary import load_templates
from ...methods.models.clip_library import SimpleTokenizer, open_clip
from ..runs.storing import store
from .tiny_clip_data import Pairs, build_bpe, make_pairs
from .tiny_clip_recipe import CONTEXT, LAYERS, PATCH_PX, SHIPPED, Recipe, Stage, model_config

GRID = SIZE_PX // PATCH_PX
MEAN = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
STD = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)


def _attend(block: Any, x: Tensor, mask: Tensor | None) -> Tensor:
    attn: Any = block.attn
    batch, tokens, width = x.shape
    heads = attn.num_heads
    qkv = F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
    q, k, v = qkv.view(batch, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4).unbind(0)
    logits = q @ k.transpose(-1, -2) * (width // heads) ** -0.5
    if mask is not None:
        logits = logits + mask
    mixed = (logits.softmax(-1).to(v.dtype) @ v).transpose(1, 2).reshape(batch, tokens, width)
    x = x + attn.out_proj(mixed)
    return x + block.mlp(block.ln_2(x))


class Trainer:
    """Model, optimisers and random state of one training run.

    ``device`` decides the speed only: on a CPU and on a GPU the same recipe gives weights of the same quality, not the
    same bits.
    """

    def __init__(self, recipe: Recipe, tokenizer: SimpleTokenizer, device: str) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.device = recipe, torch.device(device)
        self.config = model_config(tokenizer.vocab_size)
        self.model = open_clip.CLIP(**self.config)
        self.random = torch.Generator().manual_seed(recipe.seed + 1)
        self._initialise()
        self.model.to(self.device)

    def _initialise(self) -> None:
        width = self.config["vision_cfg"]["width"]
        for name, parameter in self.model.named_parameters():
            if name.endswith(("attn.out_proj.weight", "mlp.c_proj.weight")):
                parameter.data.mul_(0.1)
            if name.startswith("visual.") and name.endswith("attn.in_proj_weight"):
                parameter.data[: 2 * width].mul_(self.recipe.query_key_gain)

    def _optimisers(self, stage: Stage) -> list[tuple[torch.optim.Optimizer, float]]:
        hidden, decayed, plain = [], [], []
        for name, parameter in self.model.named_parameters():
            if "resblocks" in name and parameter.ndim == 2:
                hidden.append(parameter)
            elif parameter.ndim > 1 and "embedding" not in name:
                decayed.append(parameter)
            else:
                plain.append(parameter)
        decay = self.recipe.weight_decay
        groups = [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
        adamw = torch.optim.AdamW(groups, lr=stage.adamw_lr, betas=(0.9, 0.98), eps=1e-6)
        muon = torch.optim.Muon(hidden, lr=stage.muon_lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        return [(adamw, stage.adamw_lr), (muon, stage.muon_lr)]

    def _draw(self) -> float:
        return float(torch.rand((), generator=self.random))

    def _image_features(self, pixels: Tensor, dropout: float) -> Tensor:
        visual: Any = self.model.visual
        x = visual.conv1(pixels).flatten(2).transpose(1, 2)
        batch, tokens, width = x.shape
        side = math.isqrt(tokens)
        position = visual.positional_embedding
        row, column = (int(self._draw() * (GRID - side + 1)) for _ in range(2))
        window = position[1:].view(GRID, GRID, width)[row : row + side, column : column + side]
        x = x + window.reshape(tokens, width)
        if dropout:
            order = torch.rand(batch, tokens, generator=self.random).argsort(1)[:, : int(tokens * (1 - dropout))]
            x = torch.gather(x, 1, order[..., None].expand(-1, -1, width).to(x.device))
        first = (visual.class_embedding + position[0]).expand(batch, 1, -1).to(x.dtype)
        x = visual.ln_pre(torch.cat([first, x], dim=1))
        blind = self._blind_layers()
        mask = torch.zeros(x.shape[1], x.shape[1], dtype=x.dtype, device=x.device)
        mask[0, 1:] = -1e4
        for number, block in enumerate(visual.transformer.resblocks):
            x = _attend(block, x, mask if number < blind else None)
        return F.normalize((visual.ln_post(x[:, 0]) @ visual.proj).float(), dim=-1)

    def _blind_layers(self) -> int:
        if self._draw() >= self.recipe.blind_share:
            return 0
        return LAYERS - 1 if self._draw() < 0.6 else LAYERS - 2

    def _text_features(self, tokens: Tensor) -> Tensor:
        model: Any = self.model
        length = int((tokens != 0).sum(1).max())
        tokens = tokens[:, :length]
        x = model.token_embedding(tokens) + model.positional_embedding[:length]
        for block in model.transformer.resblocks:
            x = _attend(block, x, model.attn_mask[:length, :length])
        x = model.ln_final(x)[torch.arange(len(tokens)), tokens.argmax(-1)]
        return F.normalize((x @ model.text_projection).float(), dim=-1)

    def run_stage(
        self,
        stage: Stage,
        pairs: Pairs,
        report: Callable[[dict[str, Any]], None],
        snapshot: Callable[[nn.Module], None],
    ) -> nn.Module:
        """Train through one stage; returns the exponential moving average of the weights.

        ``report`` gets a log record every 100 steps, ``snapshot`` the average every 1000 steps.
        """
        average = copy.deepcopy(self.model)
        optimisers = self._optimisers(stage)
        steps = stage.samples // stage.batch
        order = torch.empty(0, dtype=torch.long)
        smooth, started = float("nan"), time.perf_counter()
        for step in range(steps):
            if len(order) < stage.batch:
                order = torch.randperm(len(pairs.images), generator=self.random)
            chosen, order = order[: stage.batch], order[stage.batch :]
            loss = self._step(stage, pairs, chosen, optimisers, step / steps, step)
            decay = min(stage.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(self.model.parameters()), 1 - decay)
            smooth = loss if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss
            if (step + 1) % 100 == 0 or step + 1 == steps:
                seconds = time.perf_counter() - started
                images = (step + 1) * stage.batch
                report(
                    {
                        "stage": stage.kind,
                        "step": step + 1,
                        "steps": steps,
                        "loss": round(smooth, 4),
                        "scale": round(float(self.model.logit_scale.detach().exp()), 2),
                        "images_per_second": round(images / seconds, 1),
                    }
                )
            if (step + 1) % 1000 == 0:
                snapshot(average)
        return average

    def _step(
        self,
        stage: Stage,
        pairs: Pairs,
        chosen: Tensor,
        optimisers: list[tuple[torch.optim.Optimizer, float]],
        progress: float,
        step: int,
    ) -> float:
        pixels = torch.from_numpy(pairs.images[chosen.numpy()]).permute(0, 3, 1, 2).float() / 255
        count = len(pixels)
        flipped = torch.rand(count, generator=self.random) < 0.5
        pixels[flipped] = pixels[flipped].flip(-1)
        gain, shift = (torch.rand(count, 3, 1, 1, generator=self.random) - 0.5 for _ in range(2))
        pixels = (pixels * (1 + gain * 0.2) + shift * 0.1 - MEAN) / STD
        caption = torch.randint(0, pairs.tokens.shape[1], (count,), generator=self.random)
        tokens = torch.from_numpy(pairs.tokens[chosen.numpy(), caption.numpy()].astype(np.int64))
        cosine = 0.5 * (1 + math.cos(math.pi * progress)) * (1 - stage.end_share) + stage.end_share
        rate = min(1.0, (step + 1) / self.recipe.warmup_steps) * cosine
        for optimiser, base in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = base * rate
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            image = self._image_features(pixels.to(self.device), stage.patch_dropout)
            text = self._text_features(tokens.to(self.device))
        logits = self.model.logit_scale.exp() * image @ text.T
        target = torch.arange(count, device=self.device)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser, _ in optimisers:
            optimiser.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))
        return float(loss.detach())


def train(
    output: Path,
    recipe: Recipe = SHIPPED,
    device: str = "cpu",
    workers: int = 2,
    report: Callable[[dict[str, Any]], None] = lambda record: None,
) -> Path:
    """Train the tiny CLIP and write it to ``output`` as an open_clip folder; returns ``output``.

    The folder holds ``open_clip_config.json``, ``open_clip_model.safetensors`` (fp16), ``bpe.txt.gz``,
    ``training_log.jsonl`` and ``SHA256SUMS``.  Takes about an hour on two CPU cores.
    """
    output.mkdir(parents=True, exist_ok=True)
    templates = load_templates("openai80")
    store(output / "bpe.txt.gz", build_bpe(caption_words(templates)))
    tokenizer = SimpleTokenizer(str(output / "bpe.txt.gz"), context_length=CONTEXT)
    trainer = Trainer(recipe, tokenizer, device)
    machine = {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__}
    records: list[dict[str, Any]] = [{"recipe": asdict(recipe), **machine}]

    def log(record: dict[str, Any]) -> None:
        records.append(record)
        report(record)

    for stage in recipe.stages:
        started = time.perf_counter()
        pairs = make_pairs(stage.kind, stage.scenes, templates, tokenizer, workers, lambda count: None)
        seconds = round(time.perf_counter() - started, 1)
        log({"stage": stage.kind, "images": len(pairs.images), "data_seconds": seconds})
        average = trainer.run_stage(stage, pairs, log, lambda model: _save(output, model, trainer.config))
        _save(output, average, trainer.config)
    records.append({"cpu_minutes": round(time.process_time() / 60, 1)})
    store(output / "training_log.jsonl", "".join(json.dumps(r) + "\n" for r in records).encode())
    names = ("bpe.txt.gz", "open_clip_config.json", "open_clip_model.safetensors", "training_log.jsonl")
    sums = [f"{hashlib.sha256((output / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
    store(output / "SHA256SUMS", "".join(sums).encode())
    return output


def _save(output: Path, model: nn.Module, config: dict[str, Any]) -> None:
    weights = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in model.state_dict().items()}
    store(output / "open_clip_model.safetensors", safetensors.torch.save(weights))
    preprocess = {"mean": list(open_clip.OPENAI_DATASET_MEAN), "std": list(open_clip.OPENAI_DATASET_STD)}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=2) + "\n"
    store(output / "open_clip_config.json", text.encode())
