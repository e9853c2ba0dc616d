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

# make FOLDER FILE COMMAND...: runs the command unless the folder has the file, which it leaves late
make() {
  local folder=$1 last=$2
  shift 2
  if [ -e "$folder/$last" ]; then
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
  make "$out/$1" m3.json m3search train "$here/recipes/mini-$1.toml" --set "data.folder=$data" \
    --set "start.checkpoint=$2" "${settings[@]}" --out "$out/$1" "${resume[@]}"
}

make "$english" config.json python "$here/fetch_minilm.py" "$english"
make "$out/dictionaries" dictionary.zh-Hant-en.tsv.gz python "$here/fetch_dictionaries.py" "$data" --out "$out/dictionaries"
mkdir -p "$out/data"
ln -sf "$(realpath "$data")"/* "$(realpath "$out/dictionaries")"/* "$out/data/"
data=$out/data
make "$out/tokenizer" tokenizer_config.json python "$here/train_tokenizer.py" "$data" --out "$out/tokenizer" \
  --pieces 62000 --old "$english"
make "$out/swapped" model.safetensors python "$here/swap_vocabulary.py" "$english" "$out/tokenizer" \
  --out "$out/swapped" --embedding-size 176 --texts "$data"/*.en.jsonl.gz --lexicons "$data" \
  --parallel "$data"/{apps,android,bible,crossqa-parallel,gnomehelp,guides,lafand,nusax,pud,pydocs,stories,tatoeba,tico19,tldr,wmt,written-parallel}.*-en.jsonl.gz
settings=(--set "distillation.teacher=$english")
train distil "$out/swapped"
train words "$out/distil"
settings=()
train finetune "$out/words"
train long "$out/finetune"
