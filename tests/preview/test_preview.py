import matplotlib as mpl
import numpy as np
import pytest
import torch
from ct_files import CENTRE_MM, RADII_MM, affine, organ, write, write_case
from dicom_files import write_series
from dicom_mask_files import ellipse_contours, write_rtstruct
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from gpu_synth import TumorSynthesizer
from gpu_synth.phantom import phantom
from gpu_synth.preview.run import preview_files
from gpu_synth.preview.slices import preview, save_png, slices_figure, to_rgb

SHAPE, SPACING_MM = (60, 50, 30), (2.0, 2.0, 5.0)


def scan(tumor: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Air with an organ of 100 HU in it and, if asked, a tumour at high i (right), high j (anterior), high k."""
    label = torch.zeros(SHAPE, dtype=torch.uint8)
    label[10:50, 10:40, 5:25] = 1
    if tumor:
        label[36:46, 28:36, 18:21] = 2
    return torch.full(SHAPE, -1000.0).masked_fill(label > 0, 100.0).masked_fill(label == 2, -100.0), label


def shown(panel) -> np.ndarray:
    """What a panel shows, in the screen's rows and columns, from the top left."""
    (image,) = panel.images
    left, right = panel.get_xlim()
    plane = np.asarray(image.get_array())
    assert image.origin == "lower"
    return plane[::-1, ::-1] if left > right else plane[::-1]


def first_row(figure) -> list:
    return [axes for axes in figure.axes if axes.images][:3]


def test_right_is_on_the_left_and_anterior_on_top():
    image, label = scan()
    healthy = image.masked_fill(label == 2, 100.0)
    before, after, _ = first_row(slices_figure(healthy, image, label, SPACING_MM, slices=1))
    plane = shown(after)
    rows, columns = np.nonzero(plane == -100.0)
    assert rows.mean() < plane.shape[0] / 2, "anterior is up"
    assert columns.mean() < plane.shape[1] / 2, "the patient's right is on the left"
    assert not (shown(before) == -100.0).any()


def test_a_coronal_slice_has_the_head_on_top_and_its_true_proportions():
    image, label = scan()
    figure = slices_figure(image, image, label, SPACING_MM, slices=1, coronal=True)
    panel = [axes for axes in figure.axes if axes.images][3]
    plane = shown(panel)
    rows, columns = np.nonzero(plane == -100.0)
    assert rows.mean() < plane.shape[0] / 2
    assert columns.mean() < plane.shape[1] / 2
    left, right, bottom, top = panel.images[0].get_extent()
    assert right - left == 2.0 * plane.shape[1]
    assert top - bottom == 5.0 * plane.shape[0]
    assert panel.get_aspect() in ("equal", 1.0)


def test_every_large_tumour_gets_a_slice_before_any_gets_two():
    image, label = scan(tumor=False)
    label[12:32, 12:32, 16:24] = 2
    label[38:46, 30:36, 7:9] = 2
    figure = slices_figure(image, image, label, SPACING_MM, slices=2)
    rows = [text.get_text() for axes in figure.axes for text in axes.texts if "k = " in text.get_text()]
    assert rows == ["k = 7", "k = 16"]


def test_contours_lie_on_the_masks_edge():
    image, label = scan()
    panel = first_row(slices_figure(image, image, label, SPACING_MM, slices=1))[2]
    organ, tumor = panel.collections
    margin = 20.0  # mm of the crop: the organ begins there
    np.testing.assert_allclose(organ.get_paths()[0].get_extents().min, (margin, margin), atol=1.01)
    np.testing.assert_allclose(tumor.get_paths()[0].get_extents().min, (margin + 52.0, margin + 36.0), atol=1.01)


@pytest.mark.parametrize("empty", [True, False], ids=["no organ", "organ without tumour"])
def test_nothing_to_show_is_drawn_all_the_same(empty):
    image, label = scan(tumor=False)
    label = label * 0 if empty else label
    rgb = to_rgb(slices_figure(image, image, label, SPACING_MM, coronal=True))
    assert rgb.ndim == 3
    assert rgb.shape[0] == 3
    assert rgb.dtype == torch.uint8


def test_what_a_network_found_is_outlined_too():
    image, label = scan()
    panel = first_row(slices_figure(image, image, label, SPACING_MM, predicted=label.roll(3, 0), slices=1))[2]
    assert len(panel.collections) == 3


def test_the_window_is_that_asked_for():
    image, label = scan()
    panel = first_row(slices_figure(image, image, label, SPACING_MM, window_hu=(-21.0, 189.0)))[0]
    assert panel.images[0].get_clim() == (-21.0, 189.0)


def test_a_scan_is_synthesised_drawn_and_written(tmp_path):
    settings = dict(mpl.rcParams)
    spacing_mm = (4.0, 4.0, 4.0)
    healthy = phantom(1, (56, 48, 40), spacing_mm)
    synthesizer = TumorSynthesizer("liver-hu2022", prob=1.0, scope="volume", class_prob=(0.0, 0.0, 1.0, 0.0, 0.0))
    figure = preview(healthy.image, healthy.label, synthesizer, spacing_mm, uid=3)
    assert "uid 3" in figure.get_suptitle()
    assert "mm" in figure.get_suptitle()
    assert isinstance(figure.canvas, FigureCanvasAgg)
    save_png(figure, tmp_path / "case.png")
    assert [path.name for path in tmp_path.iterdir()] == ["case.png"]
    pixels, rgb = imread(tmp_path / "case.png"), to_rgb(figure)
    assert pixels.shape[:2] == tuple(rgb.shape[1:])
    np.testing.assert_allclose(pixels[..., :3].transpose(2, 0, 1), rgb.numpy() / 255, atol=1 / 255)
    assert settings == dict(mpl.rcParams)


def test_pyplot_and_its_state_are_left_alone():
    image, label = scan()
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    slices_figure(image, image, label, SPACING_MM)
    assert plt.get_fignums() == before


def test_where_a_picture_goes_is_settled_before_the_work(tmp_path):
    write_case(tmp_path)
    files = {"image": str(tmp_path / "images" / "a.nii.gz"), "label": str(tmp_path / "labels" / "a.nii.gz")}
    with pytest.raises(ValueError, match=f"out must be a file to write, got the folder {tmp_path}; name the file"):
        preview_files(**{**files, "image": "/nowhere.nii"}, out=str(tmp_path))
    preview_files(**files, out=str(tmp_path / "new" / "folder" / "a.png"), spacing_mm=(3.0, 3.0, 3.0))
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["a.png"]


@pytest.mark.parametrize("mask", ["NIfTI", "RTSTRUCT"])
def test_a_dicom_scan_is_drawn_as_the_same_in_nifti(tmp_path, mask):
    write_case(tmp_path)
    write_series(tmp_path / "dicom" / "ct", uid="1.2.3", SeriesDescription="Venous")
    nifti = {"image": f"{tmp_path}/images/a.nii.gz", "label": f"{tmp_path}/labels/a.nii.gz"}
    label, names = nifti["label"], {}
    if mask == "RTSTRUCT":
        heights_mm = affine()[2, 3] + 3.0 * np.arange(23)
        contours = {
            "Body": ellipse_contours(CENTRE_MM, 1.2 * RADII_MM, heights_mm),
            "Liver": ellipse_contours(CENTRE_MM, RADII_MM, heights_mm),
        }
        label, names = str(write_rtstruct(tmp_path / "dicom" / "rt" / "rt.dcm", contours)), {"organ_names": ("liver",)}
    how = {"spacing_mm": (1.4, 1.1, 3.0), "overrides": {"count": (3, 3)}}
    preview_files(**nifti, out=f"{tmp_path}/a.png", **how)
    preview_files(image=f"{tmp_path}/dicom/ct", label=label, series="venous", out=f"{tmp_path}/b.png", **how, **names)
    a, b = (imread(tmp_path / f"{name}.png") for name in "ab")
    assert (np.abs(a - b).max(2) > 0.02).mean() < 1e-3, "NIfTI writes the spacing as float32"
    if mask == "RTSTRUCT":
        with pytest.raises(ValueError, match=r"must hold one of \['spleen'\], got 'Body', 'Liver'; name the organ's: --organ_names"):
            preview_files(image=f"{tmp_path}/dicom/ct", label=label, organ_names=("spleen",), out=f"{tmp_path}/c.png")


@pytest.mark.parametrize("given", [{"organ_names": ("Liver",)}, {"series": "2"}], ids=["names", "series"])
def test_a_phantom_is_no_dicom(given, tmp_path):
    with pytest.raises(ValueError, match=r"must be left out where no image is given, got .*; a phantom is no DICOM"):
        preview_files(out=f"{tmp_path}/a.png", **given)


def test_what_looks_odd_of_a_scan_is_said_before_it_is_drawn(tmp_path, capsys):
    """A mask that leaves the scan on one side and comes back on the other: the picture shows what is wrong."""
    write_case(tmp_path)
    write(tmp_path / "other.nii.gz", np.roll(organ(), 14, 0))
    for label, says in ((f"{tmp_path}/labels/a.nii.gz", False), (f"{tmp_path}/other.nii.gz", True)):
        preview_files(image=f"{tmp_path}/images/a.nii.gz", label=label, spacing_mm=(3.0, 3.0, 3.0), out=f"{tmp_path}/a.png")
        said = capsys.readouterr().out
        assert ("a.nii.gz: the organ has 2 components, the largest " in said) == says, said
        assert said.endswith(f"wrote {tmp_path}/a.png\n")
