"""The same scan through every format gives the same array; what is not CT in HU is refused."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from fedm2ct.data.scans import Scan, ScanError, read_scan

from .scan_files import SPACING_ZYX_MM, edit, image, volume, write_dicom, write_oriented


def same(scan: Scan) -> None:
    np.testing.assert_array_equal(scan.hu, volume())
    assert scan.hu.dtype == np.int16
    assert scan.spacing_zyx_mm == pytest.approx(SPACING_ZYX_MM, rel=1e-5)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
@pytest.mark.parametrize("code", ["LPS", "RAS", "LPI", "ASL", "SRP"])
def test_any_stored_orientation_gives_the_same_array(tmp_path: Path, suffix: str, code: str):
    scan = read_scan(write_oriented(tmp_path / f"a{suffix}", volume(), code))
    same(scan)
    assert scan.name == "a"


def test_dicom_series_is_sorted_by_position_not_by_name(tmp_path: Path):
    write_dicom(tmp_path / "s", volume())
    (tmp_path / "s" / "readme.txt").write_text("not an image")
    same(read_scan(tmp_path / "s"))


def test_dicom_without_series_uid_is_one_series(tmp_path: Path):
    write_dicom(tmp_path, volume(), series="1.2.3", SeriesInstanceUID="", RescaleType=None)
    same(read_scan(tmp_path))


def test_dicom_prone_feet_first_columns_are_turned(tmp_path: Path):
    flipped = volume()[:, ::-1, ::-1]
    paths = write_dicom(tmp_path, flipped, ImageOrientationPatient=[-1, 0, 0, 0, -1, 0])
    assert len(paths) == 5
    same(read_scan(tmp_path))


def test_npz_and_dicom_agree_and_share_the_patient_of_nrrd(tmp_path: Path):
    np.savez(tmp_path / "a.npz", hu=volume(), spacing_zyx_mm=SPACING_ZYX_MM)
    write_oriented(tmp_path / "b.nrrd", volume(), "RAI")
    same(read_scan(tmp_path / "a.npz"))
    assert read_scan(tmp_path / "a.npz").patient == read_scan(tmp_path / "b.nrrd").patient


def test_float_hu_is_kept_as_float(tmp_path: Path):
    np.savez(tmp_path / "a.npz", hu=volume() + np.float32(0.25), spacing_zyx_mm=(1, 1, 1))
    scan = read_scan(tmp_path / "a.npz")
    assert scan.hu.dtype == np.float32
    np.testing.assert_array_equal(scan.hu, volume() + np.float32(0.25))


def test_patient_is_a_pseudonym_and_provenance_names_nobody(tmp_path: Path):
    write_dicom(tmp_path / "a", volume())
    write_dicom(tmp_path / "b", volume() + np.int16(3))
    write_dicom(tmp_path / "c", volume(), PatientID="other")
    a, b, c = (read_scan(tmp_path / name) for name in "abc")
    assert a.patient == b.patient != c.patient
    assert a.provenance["ConvolutionKernel"] == "Br38f 3"
    text = " ".join([a.patient, *a.provenance.values()])
    assert "1234" not in text.split() and "Doe" not in text


def test_padding_becomes_air_and_values_are_clipped(tmp_path: Path):
    hu = volume()
    hu[:, 0] = -3024
    hu[0, 5, 5] = 20000
    np.savez(tmp_path / "a.npz", hu=hu, spacing_zyx_mm=(1, 1, 1))
    scan = read_scan(tmp_path / "a.npz")
    assert (scan.hu[:, 0] == -1024).all()
    assert scan.hu[0, 5, 5] == 3071


def test_pixel_padding_value_becomes_air_unless_it_is_a_tissue_value(tmp_path: Path):
    hu = volume()
    hu[:, :2] = -1500 + 24  # stored -452 as signed below
    for padding, expected in ((-452, -1024), (1024 + 40, 40)):
        folder = tmp_path / str(padding)
        paths = write_dicom(folder, hu, PixelRepresentation=1, PixelPaddingValue=padding)
        assert paths
        scan = read_scan(folder)
        place = scan.hu[:, :2] if expected == -1024 else scan.hu[hu == 40]
        assert (place == expected).all()


def test_gantry_tilt_is_noted(tmp_path: Path):
    for k, path in enumerate(write_dicom(tmp_path, volume())):
        edit(path, ImagePositionPatient=[-10.0, -20.0 + k * 0.5, 30.0 + k * 2.5])
    scan = read_scan(tmp_path)
    same(scan)
    assert float(scan.provenance["gantry_tilt_deg"]) == pytest.approx(11.3, abs=0.1)


def test_two_series_are_refused_and_one_can_be_chosen(tmp_path: Path):
    write_dicom(tmp_path, volume(), series="1.2.826.1")
    write_dicom(tmp_path, volume() + np.int16(5), series="1.2.826.2")
    with pytest.raises(ScanError, match=r"holds 2 series.*#.*1\.2\.826\.1.*1\.2\.826\.2"):
        read_scan(tmp_path)
    same(read_scan(f"{tmp_path}#1.2.826.1"))
    with pytest.raises(ScanError, match=r"holds no series 9\.9"):
        read_scan(f"{tmp_path}#9.9")


def test_single_dicom_file_is_one_slice_whatever_its_name(tmp_path: Path):
    path = write_dicom(tmp_path, volume())[2]
    same_slice = read_scan(path.rename(tmp_path / "IM0001"))
    np.testing.assert_array_equal(same_slice.hu, volume()[2:3])
    assert same_slice.spacing_zyx_mm == pytest.approx(SPACING_ZYX_MM)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"Modality": "MR"}, "Modality is MR, expected CT"),
        ({"Modality": None}, "Modality is missing"),
        ({"RescaleType": "OD"}, "Rescale Type is OD, expected HU"),
        ({"PixelSpacing": None}, "has no PixelSpacing"),
        ({"RescaleSlope": None}, r"\.dcm: has no RescaleSlope.*export the series again"),
        ({"RescaleIntercept": ""}, r"\.dcm: has no RescaleIntercept"),
        ({"ImageType": ["DERIVED", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"NumberOfFrames": 4}, "multi-frame"),
        ({"RescaleIntercept": 0}, "not Hounsfield units"),
        ({"ImagePositionPatient": [0.0, 0.0, 0.0]}, "lie at the same place"),
    ],
)
def test_dicom_that_is_not_a_ct_volume_is_refused(tmp_path: Path, fields: dict, message: str):
    write_dicom(tmp_path, volume(), **fields)
    with pytest.raises(ScanError, match=message):
        read_scan(tmp_path)


def test_missing_slice_is_refused(tmp_path: Path):
    write_dicom(tmp_path, volume())[2].unlink()
    with pytest.raises(ScanError, match=r"irregular, 5\.00 mm .* 2\.50 mm elsewhere"):
        read_scan(tmp_path)


def test_image_of_another_size_in_the_series_is_refused(tmp_path: Path):
    edit(write_dicom(tmp_path, volume())[1], Rows=12, Columns=64)
    with pytest.raises(ScanError, match="another size, spacing or orientation"):
        read_scan(tmp_path)


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.3, 0.95])
def test_truncated_dicom_is_refused(tmp_path: Path, keep: float):
    path = write_dicom(tmp_path, volume())[4]
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ScanError, match=r"truncated|damaged"):
        read_scan(tmp_path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.97])
def test_truncated_volume_is_refused(tmp_path: Path, suffix: str, keep: float, capfd):
    path = write_oriented(tmp_path / f"a{suffix}", volume(), "LPS")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ScanError, match=r"a\.n.*(truncated|damaged)"):
        read_scan(path)
    assert capfd.readouterr() == ("", "")


def test_truncated_inside_an_intact_gzip_is_refused(tmp_path: Path):
    path = write_oriented(tmp_path / "a.nii", volume(), "LPS")
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(path.read_bytes()[:-10]))
    with pytest.raises(ScanError, match="truncated"):
        read_scan(tmp_path / "b.nii.gz")


def test_one_changed_voxel_in_a_compressed_volume_is_refused(tmp_path: Path):
    rows = np.random.default_rng(0).integers(-1000, 1000, (4, 64, 64), dtype=np.int16)
    path = tmp_path / "a.nrrd"
    sitk.WriteImage(image(rows), str(path), useCompression=True)
    head, mark, data = path.read_bytes().partition(b"\n\n")
    assert b"encoding: gzip" in head and np.array_equal(read_scan(path).hu, rows)
    changed = bytearray(gzip.decompress(data))
    changed[1001] ^= 1
    body = gzip.compress(bytes(changed))
    path.write_bytes(head + mark + body[:-8] + data[-8:])  # the checksum of what was written
    with pytest.raises(ScanError, match=r"a\.nrrd: its data are damaged"):
        read_scan(path)


def test_compressed_data_that_cannot_be_unpacked_are_refused_by_name(tmp_path: Path):
    invalid_block = 0x07
    np.savez_compressed(tmp_path / "a.npz", hu=volume(), spacing_zyx_mm=(1, 1, 1))
    npz = bytearray((tmp_path / "a.npz").read_bytes())
    npz[30 + sum(int.from_bytes(npz[at : at + 2], "little") for at in (26, 28))] = invalid_block
    nifti = bytearray(
        gzip.compress(write_oriented(tmp_path / "a.nii", volume(), "LPS").read_bytes())
    )
    nifti[10] = invalid_block
    for name, content in (("b.npz", npz), ("b.nii.gz", nifti)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ScanError, match=rf"{name}: is damaged"):
            read_scan(tmp_path / name)


@pytest.mark.parametrize(
    ("hu", "message"),
    [
        (np.linspace(0, 1, 64).reshape(4, 4, 4), "from 0 to 1.*not Hounsfield"),
        (np.arange(256).reshape(4, 8, 8), "from 0 to 255.*not Hounsfield"),
        (np.arange(4096).reshape(16, 16, 16), "from 0 to 4095.*not Hounsfield"),
        (np.full((2, 4, 4), -1000), "nothing but air"),
        (np.linspace(-1000, 60000, 64).reshape(4, 4, 4), "too large"),
        (np.full((2, 4, 4), -3024), "every voxel is padding"),
        (np.where(np.arange(64) == 9, np.nan, -1000.0).reshape(4, 4, 4), "1 voxels are NaN"),
        (np.full((2, 4, 4), 1j), "complex128"),
        (np.zeros((4, 4)), r"shape \(4, 4\)"),
    ],
)
def test_values_that_are_not_hu_are_refused(tmp_path: Path, hu: np.ndarray, message: str):
    np.savez(tmp_path / "a.npz", hu=hu, spacing_zyx_mm=(1, 1, 1))
    with pytest.raises(ScanError, match=message):
        read_scan(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"hu": volume()}, "lacks spacing_zyx_mm"),
        ({"spacing_zyx_mm": (1, 1, 1)}, "lacks hu"),
        ({"hu": volume(), "spacing_zyx_mm": (1, 1)}, "must be 3 numbers"),
        ({"hu": volume(), "spacing_zyx_mm": (1, 0, 1)}, "three positive"),
        ({"hu": np.array([None, {}]), "spacing_zyx_mm": (1, 1, 1)}, "objects instead of numbers"),
    ],
)
def test_npz_with_wrong_contents_is_refused(tmp_path: Path, arrays: dict, message: str):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ScanError, match=message):
        read_scan(tmp_path / "a.npz")


def test_damaged_npz_is_refused(tmp_path: Path):
    np.savez(tmp_path / "a.npz", hu=volume(), spacing_zyx_mm=(1, 1, 1))
    content = (tmp_path / "a.npz").read_bytes()
    for name, data in (("b", content[:500]), ("c", b""), ("d", b"hello"), ("e", b"\x80\x04K\x01.")):
        (tmp_path / f"{name}.npz").write_bytes(data)
        with pytest.raises(ScanError, match="damaged"):
            read_scan(tmp_path / f"{name}.npz")


def test_missing_empty_and_unknown_paths(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    for path, message in (
        ("nothing.nii", "no such file"),
        ("empty", "holds no DICOM image"),
        ("a.png", "unknown format"),
    ):
        with pytest.raises(ScanError, match=message):
            read_scan(tmp_path / path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path):
    path = write_oriented(tmp_path / "a.nrrd", volume(), "LPS")
    path.chmod(0)
    with pytest.raises(ScanError, match="may not be read"):
        read_scan(path)


def test_images_that_are_not_one_axial_volume_are_refused(tmp_path: Path):
    flat = sitk.GetImageFromArray(volume()[0])
    sitk.WriteImage(flat, str(tmp_path / "flat.nrrd"))
    colour = sitk.GetImageFromArray(np.stack([volume()] * 3, -1), isVector=True)
    sitk.WriteImage(colour, str(tmp_path / "colour.nrrd"))
    sitk.WriteImage(sitk.JoinSeries([image(volume())] * 2), str(tmp_path / "time.nii"))
    oblique = image(volume())
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    oblique.SetDirection((1, 0, 0, 0, c, -s, 0, s, c))
    sitk.WriteImage(oblique, str(tmp_path / "oblique.nrrd"))
    for name, message in (
        ("flat.nrrd", "one 3-D volume"),
        ("colour.nrrd", "colour"),
        ("time.nii", "one 3-D volume"),
        ("oblique.nrrd", "more than 15 degrees"),
    ):
        with pytest.raises(ScanError, match=message):
            read_scan(tmp_path / name)


def test_a_single_time_point_is_a_volume(tmp_path: Path):
    sitk.WriteImage(sitk.JoinSeries([image(volume())]), str(tmp_path / "one.nrrd"))
    same(read_scan(tmp_path / "one.nrrd"))


def test_itk_warnings_stay_off_the_console_and_come_back(tmp_path: Path, capfd):
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    write_dicom(tmp_path, volume(), PixelSpacing=["0.80000001", "0.9"], SeriesInstanceUID="")
    read_scan(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert sitk.ProcessObject.GetGlobalWarningDisplay() == before
