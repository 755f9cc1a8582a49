"""Recipes by name: the paper's settings, and small ones for two cores.

Every setting of a paper recipe states its source: the paper (Chen et al., Revisiting Distributed
Synchronous SGD, arXiv 1604.00981v3, and its workshop version v1), a source that it cites or shares
code with, or, if none of them gives the setting, a choice of ours.
"""

from __future__ import annotations

from scripts.training.recipe import ByPasses, ByTraining, Cosine, LinearAtEnd, Recipe

_PAPER: dict[str, Recipe] = {
    "mnist_cnn": Recipe(
        dataset="mnist",
        optimizer="SGD",
        learning_rate=0.1,
        decay=LinearAtEnd(10 / 25),
        batch_size=32,
        replicas=1,
        backups=0,
        passes=25,
        ema=0.9999,
        sources={
            "dataset": "v3 section 2.1, appendix A.1; rotations and zooms: their ranges are ours",
            "batch_size": "not given; ours",
            "replicas": "ours: section 2.1 uses old gradients, and names no workers",
            "length": "appendix A.1",
            "optimizer": "appendix A.1",
            "learning_rate": "appendix A.1: linear to 0 in the last 10 of 25 epochs",
            "ema": "appendix A.1",
            "clip": "not given",
        },
    ),
    "inception_v3": Recipe(
        dataset="imagenet2012",
        optimizer="RMSprop",
        options={"rho": 0.9, "momentum": 0.9, "epsilon": 1.0},
        learning_rate=0.045,
        per_replica=True,
        decay=ByPasses(0.94, 2),
        batch_size=32,
        replicas=50,
        backups=3,
        ps=17,
        passes=172,
        ema=0.9999,
        clip_async=10.0,
        data={"image_size": 299},
        sources={
            "dataset": "section 4.2; 299 pixels: Szegedy et al. (1512.00567)",
            "batch_size": "appendix A.3",
            "replicas": "section 4.2: N + b = 53, 106, 212 with 17, 27, 37 ps; b is 6 %, derived",
            "length": "section 3.1: 137.5e3 updates with N = 50, which are 171.7 passes, derived",
            "optimizer": "appendix A.3; epsilon: tensorflow/models, inception",
            "learning_rate": "appendix A.3, t N / (2 T); asynchronous: 0.045, N being 1",
            "ema": "appendix A.3",
            "clip": "appendix A.3: none; asynchronous needs it, the threshold is ours",
        },
    ),
    "pixelcnn": Recipe(
        dataset="cifar10",
        optimizer="RMSprop",
        options={"rho": 0.95, "momentum": 0.9},
        learning_rate=1e-4,
        decay=ByTraining(0.03),
        batch_size=4,
        replicas=15,
        backups=1,
        ps=10,
        updates=200_000,
        held_out_batch_size=16,
        sizes={"features": 384, "depth": 20, "size": 5},
        sources={
            "dataset": "section 4.3",
            "model": "not given; Gated PixelCNN's for ImageNet (1606.05328)",
            "batch_size": "appendix A.4",
            "replicas": "section 4.3: N + b = 1, 8, 16 and b = 1; 10 ps: appendix A.4",
            "length": "appendix A.4, and 1606.05328",
            "optimizer": "appendix A.4",
            "learning_rate": "appendix A.4: to 3e-6 after 200,000 iterations; how is ours",
            "ema": "not given",
            "clip": "not given",
        },
    ),
    "word_lstm": Recipe(
        dataset="lm1b",
        optimizer="Adagrad",
        options={"initial_accumulator_value": 1.0},
        learning_rate=0.2,
        batch_size=128,
        replicas=32,
        backups=2,
        ps=8,
        passes=5,
        ema=0.999,
        clip=10.0,
        held_out_batch_size=4,  # 3.2 MB of logits for every word.
        sizes={"embedding": 512, "units": 2048, "projection": 512, "samples": 8192, "keep": 0.9},
        data={"of_words": True, "steps": 20, "vocabulary": 793_470},
        sources={
            "dataset": "v1, of a character model on top of one of words; windows and vocabulary: "
            "rafaljozefowicz/lm",
            "model": "rafaljozefowicz/lm (Jozefowicz et al., 1602.02410)",
            "batch_size": "rafaljozefowicz/lm",
            "replicas": "v1: 32 workers for that; ours: b, about 5 % as v1's Inception has, and ps",
            "length": "not given; ours",
            "optimizer": "rafaljozefowicz/lm",
            "learning_rate": "rafaljozefowicz/lm",
            "ema": "rafaljozefowicz/lm",
            "clip": "rafaljozefowicz/lm",
        },
    ),
    "draw": Recipe(
        dataset="mnist",
        optimizer="Adam",
        learning_rate=1e-3,
        batch_size=32,
        replicas=10,
        backups=1,
        ps=2,
        passes=100,
        clip=10.0,
        sizes={"glimpses": 64, "units": 256, "latent": 100, "read": 2, "write": 5},
        sources={
            "dataset": "v1 section 4",
            "model": "DRAW (1502.04623), table 3",
            "batch_size": "not given; ours",
            "replicas": "v1: 10 workers; the backup and the ps are ours",
            "length": "not given; ours",
            "optimizer": "1502.04623",
            "learning_rate": "not given; ours",
            "ema": "not given",
            "clip": "not given; ours",
        },
    ),
}

_SMALL: dict[str, Recipe] = {
    "small_cnn": Recipe(
        dataset="digits",
        optimizer="SGD",
        options={"momentum": 0.9},
        learning_rate=0.033,
        per_replica=True,
        batch_size=32,
        replicas=3,
        backups=1,
        passes=20,
    ),
    "mnist_cnn": Recipe(
        dataset="mnist",
        optimizer="SGD",
        options={"momentum": 0.9},
        learning_rate=0.025,
        per_replica=True,
        decay=LinearAtEnd(0.7),
        batch_size=32,
        replicas=2,
        backups=1,
        updates=2400,
        ema=0.99,
    ),
    "inception_v3": Recipe(
        dataset="cifar10",
        optimizer="SGD",
        options={"momentum": 0.9},
        learning_rate=0.05,
        per_replica=True,
        decay=Cosine(),
        batch_size=32,
        replicas=2,
        backups=1,
        updates=1200,
        # A quarter of the channels, one module on each grid, a stem that halves the image once.
        sizes={
            "width": 0.25,
            "modules": [1, 1, 1],
            "batch_norm_decay": 0.99,
            "small_images": True,
        },
    ),
    "pixelcnn": Recipe(
        dataset="cifar10",
        optimizer="Adam",
        learning_rate=0.005,
        decay=Cosine(),
        batch_size=4,
        replicas=2,
        backups=1,
        updates=2000,
        held_out_batch_size=16,
        sizes={"features": 24, "depth": 3, "size": 5},
    ),
    "char_lstm": Recipe(
        dataset="topics",
        optimizer="Adam",
        learning_rate=0.005,
        decay=Cosine(),
        batch_size=16,
        replicas=2,
        backups=1,
        updates=2000,
        clip=1.0,
        sizes={"embedding": 64, "units": 256},
        data={"steps": 128},
    ),
    "word_lstm": Recipe(
        dataset="topics",
        optimizer="Adagrad",
        options={"initial_accumulator_value": 1.0},
        learning_rate=0.2,
        batch_size=32,
        replicas=2,
        backups=1,
        updates=600,
        clip=10.0,
        sizes={"embedding": 128, "units": 512, "projection": 128, "samples": 512, "keep": 0.9},
        data={"of_words": True, "steps": 20, "vocabulary": 10_000},
    ),
    "draw": Recipe(
        dataset="mnist",
        optimizer="Adam",
        learning_rate=2e-3,
        decay=Cosine(),
        batch_size=32,
        replicas=2,
        backups=1,
        updates=600,
        clip=10.0,
    ),
}

RECIPES: dict[str, dict[str, Recipe]] = {"small": _SMALL, "paper": _PAPER}
MODELS = tuple(_SMALL)


def find(model: str, name: str) -> Recipe:
    """Return a model's recipe by name.

    Raises:
      ValueError: if there is no such model, or it has no such recipe.
    """
    if model not in MODELS:
        raise ValueError(f"--model is {model!r}; the known ones are {', '.join(MODELS)}.")
    known = [each for each, recipes in RECIPES.items() if model in recipes]
    if name not in known:
        why = {
            "small_cnn": "no experiment of the paper has it",
            "char_lstm": "the paper's reads a word model that was never published",
        }.get(model)
        because = f" ({why})" if why and name == "paper" else ""
        raise ValueError(
            f"--recipe is {name!r}, but {model} has none of that name{because}; it has "
            f"{' and '.join(known)}."
        )
    return RECIPES[name][model]


def overview() -> str:
    """Return the settings of all recipes as text, for `--list_recipes`."""
    lines = ["What the recipes set (where it comes from: --show_recipe):"]
    for model in MODELS:
        lines.append("")
        for name, of_models in RECIPES.items():
            if model in of_models:
                lines.append(f"  --model={model} --recipe={name}")
                rows = of_models[model].describe()
                lines += [f"    {setting:<14} {value}" for setting, value, _ in rows]
    return "\n".join(lines)
