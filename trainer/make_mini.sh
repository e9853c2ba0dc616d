#!/usr/bin/env bash
# m3-mini from its training files to a checkpoint, all stages one after the other.
#   trainer/make_mini.sh DATA [OUT]
# DATA: the folder of the training files. OUT: where the stages put theirs, by default
# checkpoints/mini. What is finished is kept, and what was stopped goes on: the same command again.
set -euo pipefail
data=${1:?the folder of the training files}
out=${2:-checkpoints/mini}
here=$(dirname "$0")
english=$out/all-MiniLM-L6-v2

# make FOLDER COMMAND...: runs the command unless the folder has what it leaves at its end
make() {
  local folder=$1
  shift
  if [ -e "$folder/config.json" ] || [ -e "$folder/tokenizer_config.json" ]; then
    echo "== $folder is there"
  else
    echo "== $folder"
    "$@"
  fi
}

# train STAGE START: the recipe mini-STAGE.toml, from the folder START
train() {
  local resume=()
  if [ -e "$out/$1/training_state.pt" ]; then resume=(--resume); fi
  make "$out/$1" m3search train "$here/recipes/mini-$1.toml" --set "data.folder=$data" \
    --set "start.checkpoint=$2" "${settings[@]}" --out "$out/$1" "${resume[@]}"
}

make "$english" python "$here/fetch_minilm.py" "$english"
make "$out/tokenizer" python "$here/train_tokenizer.py" "$data" --out "$out/tokenizer" \
  --pieces 62000 --old "$english"
make "$out/swapped" python "$here/swap_vocabulary.py" "$english" "$out/tokenizer" \
  --out "$out/swapped" --embedding-size 176 --texts "$data"/*.en.jsonl.gz --lexicons "$data" \
  --parallel "$data"/{apps,android,bible,crossqa-parallel,gnomehelp,guides,lafand,nusax,pud,pydocs,stories,tatoeba,tico19,tldr,wmt,written-parallel}.*-en.jsonl.gz
settings=(--set "distillation.teacher=$english")
train distil "$out/swapped"
settings=()
train finetune "$out/distil"
