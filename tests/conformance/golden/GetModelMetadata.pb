

shapessignature_def