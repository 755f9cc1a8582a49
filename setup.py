"""Packaging of tf_backup. The versions that are tested together are in requirements.lock."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent

# Literals: a test reads these two from the source and compares them with the lock files.
INSTALL_REQUIRES = [
    # tf_backup uses private parts of both, which docs/internals.md lists: a version is added here
    # once the tests have passed with it. Keras 3.12 is the last for Python 3.10.
    "tensorflow>=2.20,<2.22",
    "keras>=3.12,<3.16",
    "numpy>=2.0",
    # TensorFlow brings it; tf_backup asks servers with it how they are.
    "grpcio>=1.59",
]

EXTRAS_REQUIRE = {
    "scripts": [
        "absl-py>=1.4",
        "psutil>=5.9",
        "scikit-learn>=1.5",
        # TensorFlow 2.20 brings it, 2.21 does not.
        "tensorboard>=2.20",
        "tensorflow-datasets>=4.9.9",
        # tensorflow-datasets imports it and does not ask for it.
        "importlib_resources>=6",
    ],
    "benchmark": [
        "matplotlib>=3.10",  # For its picture only.
    ],
    "report": [  # For scripts/report.py, and for the records that it reads.
        "absl-py>=1.4",
        "matplotlib>=3.10",
        "pyarrow>=15",
        "tensorboard>=2.20",
    ],
    "metrics": [
        "prometheus_client>=0.20",
    ],
    "models": [
        # Asks for TensorFlow 2.20, and with it for the whole lock: see requirements-models.lock.
        "tf-models-official>=2.20,<2.21",
    ],
    "tests": [
        "absl-py>=1.4",
        "importlib_resources>=6",
        "kubernetes-validate>=1.37",
        "mypy>=1.15",
        "packaging>=24",
        "prometheus_client>=0.20",
        "promql-parser>=0.12",
        "psutil>=5.9",
        "pytest>=8",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "PyYAML>=6",
        "ruff>=0.9",
        "scikit-learn>=1.5",
        "tensorboard>=2.20",
        "tensorflow-datasets>=4.9.9",
    ],
}


def version() -> str:
    """Returns the version in tf_backup/__init__.py, without importing TensorFlow for it."""
    text = (HERE / "tf_backup" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise RuntimeError("tf_backup/__init__.py has no line '__version__ = \"...\"'.")
    return found[1]


def long_description() -> str:
    """Returns the README, or nothing where there is none."""
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


setup(
    name="tf_backup",
    version=version(),
    description="Synchronous SGD with backup workers for TensorFlow 2 and Keras 3",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.14",
    # Only the library: models, scripts and tests are used from a clone.
    packages=find_packages(include=["tf_backup", "tf_backup.*"]),
    package_data={"tf_backup": ["py.typed"]},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    zip_safe=False,
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
