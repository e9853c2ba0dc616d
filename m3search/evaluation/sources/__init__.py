"""Data sets by name: fetched from where they are published, and written as BEIR folders.

source     what is known of a data set before it is fetched
catalogue  which names there are
fetching   a data set as a folder in a cache, whole or not there
hub        data sets of the Hugging Face hub
irds       data sets of ir_datasets
"""

from m3search.evaluation.sources.catalogue import find_source, is_source_name, kinds_of_sources
from m3search.evaluation.sources.fetching import cache_folder, fetch
from m3search.evaluation.sources.source import Source

__all__ = ["Source", "cache_folder", "fetch", "find_source", "is_source_name", "kinds_of_sources"]
