"""DICOM: which files belong together (`files`, `series`), where slices lie (`slices`), and masks drawn on them (`masks`)."""
