"""Hard negatives: passages that rank high for a query and are no answer to it.

candidates  where they come from: an index, searched in any modes
lexical     the same by BM25
records     lines of training files with all their fields
rules       the settings, and what a negative may be
reranker    a cross-encoder that looks at what is drawn
negatives   `mine`: records in, records with negatives out
"""
