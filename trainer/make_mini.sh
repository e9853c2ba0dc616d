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

# train STAGE START [SETTING...]: the recipe mini-STAGE.toml, from the folder START
train() {
  local stage=$1 start=$2 resume=()
  shift 2
  if [ -e "$out/$stage/training_state.pt" ]; then resume=(--resume); fi
  make "$out/$stage" m3.json m3search train "$here/recipes/mini-$stage.toml" --set "data.folder=$data" \
    --set "start.checkpoint=$start" "$@" --out "$out/$stage" "${resume[@]}"
}

# title_bodies: pairs of all unlabelled texts, a file for each language
title_bodies() {
  local file name
  for file in "$data"/text.*.jsonl.gz; do
    name=$(basename "$file" .jsonl.gz)
    name=${name#text.}
    # a file of several languages names them in its lines
    python "$here/title_body_pairs.py" "$file" --out "$out/bodies/bodies-$name.jsonl.gz" --per-query 4 --max-body 2000
  done
  touch "$out/bodies/done"
}

make "$english" config.json python "$here/fetch_minilm.py" "$english"
make "$out/dictionaries" dictionary.zh-Hant-en.tsv.gz python "$here/fetch_dictionaries.py" "$data" --out "$out/dictionaries"
make "$out/rough" rough-dictionary.zh-en.jsonl.gz python "$here/word_by_word.py" "$out"/dictionaries/*.tsv.gz \
  --english "$data"/{tatoeba,stories}.*-en.jsonl.gz --out "$out/rough"
make "$out/bodies" done title_bodies
mkdir -p "$out/data"
ln -sf "$(realpath "$data")"/* "$(realpath "$out")"/{dictionaries,rough,bodies}/*.gz "$out/data/"
make "$out/tokenizer" tokenizer_config.json python "$here/train_tokenizer.py" "$data" --out "$out/tokenizer" \
  --pieces 94000 --old "$english"
make "$out/swapped" model.safetensors python "$here/swap_vocabulary.py" "$english" "$out/tokenizer" \
  --out "$out/swapped" --embedding-size 128 --texts "$data"/*.en.jsonl.gz --lexicons "$out/data" \
  --parallel "$data"/{apps,android,bible,crossqa-parallel,gnomehelp,guides,lafand,nusax,pud,pydocs,stories,tatoeba,tico19,tldr,wmt,written-parallel}.*-en.jsonl.gz
data=$out/data
teacher=(--set "distillation.teacher=$english")
train distil "$out/swapped" "${teacher[@]}"
train contrastive "$out/distil" "${teacher[@]}"
train finetune "$out/contrastive" "${teacher[@]}"
train long "$out/finetune"
