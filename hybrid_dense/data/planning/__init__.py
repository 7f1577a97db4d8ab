"""From a data set to the config that trains on it: what there is (sources), what follows from it (recipe), its text."""
