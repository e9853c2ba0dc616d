#!/usr/bin/env bash
# eval/reports/m3-mini: what m3-mini finds, beside BM25 by Lucene and by bm25s, and its English teacher.
#   eval/mini_report.sh DATA MINILM [MODEL [OUT [OPTION...]]]
# DATA: the folder of the sets. MINILM: what trainer/fetch_minilm.py has made. MODEL: by default the
# embedded m3-mini, as is ''. OPTION: of m3search eval for both models, such as --backend openvino. The
# report of MiniLM, and all that was encoded and searched, stay in indexes/mini-report.
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0" && exit ;; esac
data=${1:?the folder of the sets}
minilm=${2:?the folder of all-MiniLM-L6-v2}
model=${3:-}
out=${4:-eval/reports/m3-mini}
shift $(($# < 4 ? $# : 4))
suites=(eval/suites/mini.toml eval/suites/mini-cut.toml)
rows=dense,sparse,multi,dense+sparse,all,bm25-lucene,bm25
work=indexes/mini-report
evaluate() { m3search eval "${suites[@]}" --data "$data" --cache "$work/kept" "$@"; }

evaluate --out "$work/minilm" --model "$minilm" --pooling mean --rows dense --max-length 512 "$@"
evaluate --out "$out" ${model:+--model "$model"} --rows "$rows" "$@" \
  --set "run_files.MiniLM-dense=$work/minilm/runs/{set}.dense.trec"
