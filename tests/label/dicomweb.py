# SPDX-License-Identifier: Apache-2.0
"""DICOMweb datastore for our app: two series, one with a segmentation, by MONAI Label's own class.

    python tests/label/dicomweb.py FOLDER IMAGE LABEL

To be run where MONAI Label is installed. What the network and the conversion of DICOM do is replaced: a series becomes
the file ``IMAGE``, a segmentation ``LABEL``. Prints the annotated cases as JSON.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from monailabel.datastore import dicom
from pydicom.dataset import Dataset

from regplugins.label.propagation import annotated_cases

FOLDER, IMAGE, LABEL = sys.argv[1:]
IMAGES, SEGMENTATION = ("1.2.3", "1.2.3.4"), "9.9"


def series(uid: str) -> dict[str, Any]:
    item = Dataset()
    item.StudyInstanceUID, item.SeriesInstanceUID, item.Modality = "7", uid, "MR"
    if uid == SEGMENTATION:
        reference = Dataset()
        reference.SeriesInstanceUID = IMAGES[1]
        item.ReferencedSeriesSequence = [reference]
    return item.to_json_dict()


class Client:
    base_url = "http://pacs/dicom-web"

    def search_for_series(self, search_filters: dict[str, str]) -> list[dict[str, Any]]:
        if search_filters.get("Modality") == "SEG":
            return [series(SEGMENTATION)]
        wanted = search_filters.get("SeriesInstanceUID")
        return [series(uid) for uid in ([wanted] if wanted else IMAGES)]

    def retrieve_series_metadata(self, study: str, uid: str) -> list[dict[str, Any]]:
        return [series(uid)]


def download(study: str | None, uid: str, folder: str, *_: object) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "slice.dcm").write_text(uid)


def convert(folder: str, is_seg: bool = False) -> str:
    uid = (Path(folder) / "slice.dcm").read_text()
    if is_seg != (uid == SEGMENTATION):
        raise ValueError(f"{uid}: {'no' if is_seg else 'a'} segmentation")
    return shutil.copy(LABEL if is_seg else IMAGE, Path(tempfile.mkdtemp()) / "converted.nii.gz")


dicom.dicom_web_download_series, dicom.dicom_to_nifti = download, convert
store = dicom.DICOMWebDatastore(Client(), {"Modality": "MR"}, FOLDER)
print(json.dumps([[case.name, case.image, case.label] for case in annotated_cases(store)]))
