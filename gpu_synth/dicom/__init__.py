"""DICOM: which files belong together (`files`, `series`), where slices lie (`slices`), masks (`masks`)."""
