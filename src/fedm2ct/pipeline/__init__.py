"""From a configuration to numbers: prepare data, train units of work, evaluate, summarise."""
