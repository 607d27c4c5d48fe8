"""One scan's files through the engine and back: what does not change keeps its bits, whatever the file's axes, dtype and scaling are."""

import nibabel as nib
import numpy as np
import pytest
import torch
from ct_files import ORIENTATIONS, SHAPE, affine, ct, organ, write

from gpu_synth import TumorSynthesizer
from gpu_synth.sources import Source
from gpu_synth.synthesize.export import MARGIN_VOX, Labels, reached, read_scan, render_scan, write_scan
from gpu_synth.synthesize.stored import read_stored, write_stored
from gpu_synth.volumes import VolumeError, to_ras

CPU = torch.device("cpu")
UID = torch.tensor([5])
USUAL = Labels()
SOME = {"count": (3, 5), "satellite_prob": 0.0, "cirrhosis_prob": 0.0}


def plain(path):
    """Header but for where the voxels begin, the numbers as stored, and the affine."""
    image = nib.load(path)
    with nib.openers.Opener(path) as stream:
        header = image.header_class.from_fileobj(stream, check=False)
    header["vox_offset"] = 0
    return header, image.dataobj.get_unscaled(), image.affine


def noisy(scale=20.0):
    return np.rint(ct() + np.random.default_rng(0).normal(0, scale, SHAPE)).astype(np.int16)


def case(folder, image, label=None, orientation="RAS", label_orientation=None):
    """Write a case and read it as a source."""
    files = [write(folder / "ct.nii.gz", image, orientation=orientation)]
    files.append(write(folder / "mask.nii.gz", organ() if label is None else label, orientation=label_orientation or orientation))
    return Source("a", *files)


def made(source, folder, labels=USUAL, uid=UID, preset="liver", **overrides):
    """Synthesise into a case; the files written, image, label, instances."""
    scan = read_scan(source, labels)
    synth = TumorSynthesizer(preset, prob=1.0, seed=1, scope="volume", **{**(SOME if preset == "liver" else {}), **overrides})
    plan = synth.plan(*scan.tensors(scan.box), scan.spacing_mm, uid)
    assert plan.active.any()
    out, box = render_scan(synth, scan, plan, CPU)
    paths = [folder / f"new_{name}.nii.gz" for name in ("image", "label", "instances")]
    assert write_scan(scan, out, box, labels, paths) > 0
    return paths


def test_a_file_written_back_is_the_file(tmp_path):
    header = nib.Nifti1Header()
    header["descrip"], header["aux_file"], header["intent_name"] = b"a scanner, kV 120", b"aux", b"name"
    header["cal_max"], header["toffset"] = 250.0, 3.5
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"kept"))
    image = nib.Nifti1Image(noisy(), affine(), header)
    image.set_sform(affine(), code=2)
    image.set_qform(affine(), code=1)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "a.nii")
    stored = read_stored(tmp_path / "a.nii")
    write_stored(tmp_path / "b.nii.gz", stored.header, stored.numbers)
    (head, numbers, at), (new_head, new_numbers, new_at) = plain(tmp_path / "a.nii"), plain(tmp_path / "b.nii.gz")
    assert new_head.binaryblock == head.binaryblock
    assert [e.get_content() for e in new_head.extensions] == [e.get_content() for e in head.extensions] != []
    assert np.array_equal(new_numbers, numbers)
    assert np.array_equal(new_at, at)


@pytest.mark.parametrize("kind", ["int16", "scaled", "offset", "unsigned", "float32", "float64", "big-endian", "int32", "nan", "4d"])
def test_what_no_tumour_reaches_keeps_its_bits(tmp_path, kind):
    hu = noisy()
    if kind == "nan":
        hu = hu.astype(np.float32)
        hu[0] = np.nan
    dtype = {"float32": "<f4", "float64": "<f8", "big-endian": ">i2", "int32": "<i4", "unsigned": "<u2", "nan": "<f4"}.get(kind, "<i2")
    slope, inter = {"scaled": (0.5, -1024.0), "offset": (1.0, -1024.0), "unsigned": (1.0, -2000.0)}.get(kind, (np.nan, np.nan))
    numbers = hu if np.isnan(slope) else np.rint((hu - inter) / slope)
    header = nib.Nifti1Header(endianness=">" if kind == "big-endian" else "<")
    header.set_data_dtype(np.dtype(dtype))
    header.set_data_shape((*SHAPE, 1) if kind == "4d" else SHAPE)
    header["scl_slope"], header["scl_inter"] = slope, inter
    header.set_sform(affine(), 1)
    write_stored(tmp_path / "ct.nii.gz", header, numbers.astype(dtype))
    source = case(tmp_path / "mask", hu)._replace(image=tmp_path / "ct.nii.gz")
    new, _, instances = made(source, tmp_path)
    (head, before, at), (new_head, after, new_at) = plain(source.image), plain(new)
    assert new_head.binaryblock == head.binaryblock
    assert (after.dtype, after.shape) == (before.dtype, before.shape)
    assert np.array_equal(new_at, at)
    lesion = np.asarray(nib.load(instances).dataobj).reshape(SHAPE) > 0
    changed = (before.reshape(SHAPE) != after.reshape(SHAPE)) & ~np.isnan(before.reshape(SHAPE).astype(float))
    assert changed[lesion].mean() > 0.7  # in whole HU, a small change may be none
    hu_before, hu_after = (np.asarray(nib.load(path).dataobj).reshape(SHAPE).astype(float) for path in (source.image, new))
    assert 5 < np.abs(hu_after - hu_before)[lesion].mean() < 120
    assert 0 < changed.sum() < 0.5 * changed.size
    assert np.array_equal(np.isnan(hu_before), np.isnan(hu_after))
    if not np.isnan(slope):  # as a CT of the same HU that is not scaled, to half a step
        plain_ct = made(case(tmp_path / "plain", hu), tmp_path / "plain")[0]
        assert np.abs(np.asarray(nib.load(plain_ct).dataobj) - hu_after).max() <= 0.5 * slope + 0.5


@pytest.mark.parametrize("preset", ["liver", "liver-hu2022"])
def test_every_orientation_gets_the_same_tumours(tmp_path, preset):
    first = [np.asarray(nib.load(path).dataobj) for path in made(case(tmp_path, noisy()), tmp_path, preset=preset)]
    for orientation in ORIENTATIONS[1::6]:
        source = case(tmp_path / orientation, noisy(), orientation=orientation, label_orientation="LPS" if orientation == "SRA" else None)
        paths = made(source, tmp_path / orientation, preset=preset)
        for path, file, want in zip(paths, (source.image, source.label, source.image), first, strict=True):
            image, given = nib.load(path), nib.load(file)
            assert nib.aff2axcodes(image.affine) == nib.aff2axcodes(given.affine)
            assert np.array_equal(image.affine, given.affine)
            assert np.array_equal(np.asarray(nib.as_closest_canonical(image).dataobj), want), orientation


def test_an_axial_slice_is_the_patients_whatever_the_files_axes(tmp_path):
    """The published law centres lesions in the middle 40 % of the organ's axial extent: here, of the file's first axis."""
    source = case(tmp_path, noisy(), orientation="SRA")
    scan = read_scan(source, Labels())
    synth = TumorSynthesizer("liver-hu2022", prob=1.0, scope="volume", class_prob=(1, 0, 0, 0, 0))
    inside = np.flatnonzero(np.asarray(nib.load(source.label).dataobj).any((1, 2)))
    for uid in range(20):
        plan = synth.plan(*scan.tensors(scan.box), scan.spacing_mm, torch.tensor([uid]))
        for record in plan.to_records():
            first, *_ = scan.in_file(record["centre_vox"])
            assert inside[0] + 0.25 * np.ptp(inside) <= first <= inside[0] + 0.75 * np.ptp(inside)
            assert np.allclose(scan.in_box(scan.in_file(record["centre_vox"])), record["centre_vox"])


STRONG = {"mass_effect": (40, 40), "bulge": (60, 60), "halo": (0.1, 0.2), "size_prob": (0.1, 0.0, 0.0, 0.9), "inside_share": 0.2}
GROWN = {name: figure for name, figure in STRONG.items() if name != "halo"}  # which lesions that grow do not have


@pytest.mark.parametrize(
    ("preset", "overrides"),
    [("liver", {}), ("liver", {"cirrhosis_prob": 1.0}), ("liver", STRONG), ("liver-growth", GROWN), ("liver-hu2022", {})],
    ids=["liver", "cirrhosis", "strong", "growth", "published"],
)
def test_the_box_that_is_rendered_is_the_whole_scans_render(tmp_path, preset, overrides):
    shape, at = (140, 110, 90), affine((1.5, 1.5, 2.0))
    radius = np.linalg.norm((np.moveaxis(np.indices(shape), 0, -1) - (70, 50, 45)) / (21, 17, 12), axis=-1)
    noise = np.random.default_rng(1).normal(0, 10, shape)
    hu = np.rint(np.where(radius < 1, 100, 3.0 * np.indices(shape)[2] - 40) + noise).astype(np.int16)
    hu[:, :3] = -1000
    files = [write(tmp_path / name, data, at=at) for name, data in (("ct.nii.gz", hu), ("mask.nii.gz", (radius < 1).astype(np.uint8)))]
    scan = read_scan(Source("a", *files), Labels())
    synth = TumorSynthesizer(preset, prob=1.0, scope="volume", **overrides)
    everything = tuple((0, n) for n in shape)
    beyond = 0
    for uid in range(4):
        plan = synth.plan(*scan.tensors(scan.box), scan.spacing_mm, torch.tensor([uid]))
        out, box = render_scan(synth, scan, plan, CPU)
        assert box == reached(plan, scan) != everything
        part = tuple(slice(*ends) for ends in box)
        whole = synth.render(*scan.tensors(everything), plan, [-start for start, _ in scan.box])
        assert (out.image[0, 0] - whole.image[0, 0][part]).abs().max() < 0.01  # the lesions' coordinates are rounded elsewhere
        assert torch.equal(out.label[0, 0], whole.label[0, 0][part])
        assert torch.equal(out.instances[0, 0], whole.instances[0, 0][part])
        changed = whole.image[0, 0] != whole.healthy[0, 0]
        assert changed.any()
        total = int(changed.sum())
        beyond += total - int(changed[tuple(slice(*ends) for ends in scan.box)].sum())
        assert int(changed[part].sum()) == total
    assert all(stop - start >= MARGIN_VOX for start, stop in scan.box)
    assert (beyond > 0) == (overrides in (STRONG, GROWN)), "mass effect reaches beyond the organ's box"


def test_other_structures_and_real_tumours_keep_their_labels(tmp_path):
    mask = organ().astype(np.int16)
    around = np.pad(mask, 2)
    beside = np.zeros_like(mask)
    for shift in (-2, 2):
        beside |= np.roll(around, shift, 0)[2:-2, 2:-2, 2:-2]
    mask[(beside == 1) & (mask == 0)] = 7
    inside = np.argwhere(mask == 1)
    mask[tuple(np.median(inside, 0).astype(int))] = 3
    source = case(tmp_path, noisy(), mask)
    labels = Labels(real_tumor=(3,), synthetic=3)
    for uid in range(4):
        _, new, instances = made(source, tmp_path, labels, torch.tensor([uid]), bulge=(60.0, 60.0), mass_effect=(40.0, 40.0))
        after, number = (np.asarray(nib.load(path).dataobj) for path in (new, instances))
        assert after.dtype == mask.dtype
        assert np.array_equal(after == 7, mask == 7)
        assert (after[mask == 3] == 3).all()
        assert not number[mask == 3].any(), "the instance map tells synthetic tumours from real ones"
        assert ((after == 3) & (mask != 3)).sum() == (number > 0).sum() > 0
        assert set(np.unique(after)) == {0, 1, 3, 7}


def test_of_several_organ_values_what_bulges_takes_the_next_ones(tmp_path):
    mask = organ().astype(np.uint8)
    mask[SHAPE[0] // 2 :][mask[SHAPE[0] // 2 :] > 0] = 4
    source, labels = case(tmp_path, noisy(), mask), Labels(organ=(1, 4), synthetic=9)
    gained = 0
    for uid in range(6):
        after = np.asarray(nib.load(made(source, tmp_path, labels, torch.tensor([uid]), inside_share=0.4)[1]).dataobj)
        new = (mask == 0) & np.isin(after, (1, 4))
        gained += new.sum()
        assert not (new[: SHAPE[0] // 2 - 1] & (after[: SHAPE[0] // 2 - 1] == 4)).any()
        assert np.array_equal(after[np.isin(after, (1, 4)) & (mask > 0)], mask[np.isin(after, (1, 4)) & (mask > 0)])
    assert gained > 0, "nothing was tested"


@pytest.mark.parametrize(
    ("image", "label", "labels", "says"),
    [
        (None, organ() * 2, Labels(), "must hold organ label 1, got only 0, 2; name the organ's value: --organ_labels 2"),
        (None, organ() + 2 * np.roll(organ(), 20, 0) * (1 - organ()), Labels(), "must not use the tumours' label 2 for anything"),
        (None, organ(), Labels(synthetic=300), "must be able to hold tumour label 300, got uint8"),
        (None, np.zeros(SHAPE, np.uint8), Labels(), "it is empty: is it the right file?"),
        (None, organ() * np.float32(0.5), Labels(), "must hold whole numbers"),
        (None, organ()[:-1], Labels(), "must lie on its image's grid"),
        (np.full(SHAPE, np.nan, np.float32), None, Labels(), "got no finite voxel"),
        (np.clip(ct() / 2000, 0, 1).astype(np.float32), None, Labels(), "must be a CT in HU, got values from"),
    ],
    ids=["value", "used", "dtype", "empty", "share", "grid", "nan", "window"],
)
def test_a_case_that_cannot_be_used_is_refused_by_name(tmp_path, image, label, labels, says):
    with pytest.raises(VolumeError, match=r"\.nii\.gz: ") as error:
        read_scan(case(tmp_path, noisy() if image is None else image, label), labels)
    assert says in str(error.value)


def test_dicom_is_sent_to_prepare(tmp_path):
    source = case(tmp_path, noisy())
    (tmp_path / "series").mkdir()
    with pytest.raises(VolumeError, match=r"series: must be NIfTI, .* then give --data_dir"):
        read_scan(source._replace(image=tmp_path / "series"), Labels())
    with pytest.raises(VolumeError, match="has no label in the list"):
        read_scan(source._replace(label=None), Labels())


def test_a_mask_on_another_place_is_refused_and_one_without_place_takes_its_images(tmp_path):
    source = case(tmp_path, noisy())
    write(source.label, organ(), at=affine(origin_mm=(0, 0, 0)))
    with pytest.raises(VolumeError, match="gpu-synth prepare brings both onto one"):
        read_scan(source, Labels())
    image = nib.Nifti1Image(organ(), None)
    nib.save(image, source.label)
    scan = read_scan(source, Labels())
    assert "the image's is taken" in scan.notes[0]
    assert np.array_equal(scan.label == 1, organ() == 1)
    assert np.allclose(to_ras(scan.image.volume).spacing_mm, scan.spacing_mm)


def test_an_image_without_place_takes_a_placed_mask_voxel_by_voxel_as_prepare_does(tmp_path):
    source = case(tmp_path, noisy(), organ())
    nib.save(nib.Nifti1Image(noisy(), None), source.image)
    scan = read_scan(source, Labels())
    assert scan.notes[0] == "the image's header gives no position (sform and qform codes are 0): the mask is taken voxel by voxel"
    lying = nib.apply_orientation(organ(), nib.io_orientation(nib.load(source.image).affine))
    assert np.array_equal(scan.label == 1, lying == 1)
