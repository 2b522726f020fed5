"""The map of the taxonomy: from sets of classes to overlapping regions, by rule and without a drawing by hand."""
