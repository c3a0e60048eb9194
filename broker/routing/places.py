"""In which country a cloud's region is, by its name; pure.

Source: the regions and their cities in botocore's `endpoints.json`, and in Google Cloud's table of
BigQuery locations (docs.cloud.google.com/bigquery/docs/locations), compared on 2026-11-22.
"""

from __future__ import annotations

import re

from broker.routing.countries import EU

# Country -> its regions; of those that are not here nobody knows.
_REGIONS = {
    "AE": "me-central-1",
    "AU": "ap-southeast-2 ap-southeast-4 australia-southeast1 australia-southeast2",
    "BE": "europe-west1",
    "BH": "me-south-1",
    "BR": "sa-east-1 southamerica-east1",
    "CA": "ca-central-1 ca-west-1 northamerica-northeast1 northamerica-northeast2",
    "CH": "eu-central-2 europe-west6",
    "CL": "southamerica-west1",
    "CN": "cn-north-1 cn-northwest-1",
    "DE": "eu-central-1 europe-west3 europe-west10",
    "ES": "eu-south-2 europe-southwest1",
    "EU": "eu",
    "FI": "europe-north1",
    "FR": "eu-west-3 europe-west9",
    "GB": "eu-west-2 europe-west2",
    "HK": "ap-east-1 asia-east2",
    "ID": "ap-southeast-3 asia-southeast2",
    "IE": "eu-west-1",
    "IL": "il-central-1 me-west1",
    "IN": "ap-south-1 ap-south-2 asia-south1 asia-south2",
    "IT": "eu-south-1 europe-west8 europe-west12",
    "JP": "ap-northeast-1 ap-northeast-3 asia-northeast1 asia-northeast2",
    "KR": "ap-northeast-2 asia-northeast3",
    "MX": "mx-central-1 northamerica-south1",
    "MY": "ap-southeast-5",
    "NL": "europe-west4",
    "NZ": "ap-southeast-6",
    "PL": "europe-central2",
    "QA": "me-central1",
    "SA": "me-central2",
    "SE": "eu-north-1 europe-north2",
    "SG": "ap-southeast-1 asia-southeast1",
    "TH": "ap-southeast-7 asia-southeast3",
    "TW": "ap-east-2 asia-east1",
    "US": "us us-east-1 us-east-2 us-west-1 us-west-2 us-gov-east-1 us-gov-west-1 us-central1 "
    "us-east1 us-east4 us-east5 us-south1 us-west1 us-west2 us-west3 us-west4",
    "ZA": "af-south-1 africa-south1",
}
_COUNTRY = {region: code for code, regions in _REGIONS.items() for region in regions.split()}
# Resources that are only known in their own region.
_OWN = re.compile(r"(?:arn:aws[a-z-]*:[a-z-]+:|projects/[^/]+/locations/)([a-z0-9-]+)[:/]")


def called(model: str, asked: str) -> str:
    """The region that a call for a model goes to: that of its full name, else the one asked for."""
    own = _OWN.match(model)
    return own[1] if own else asked


def places(region: str) -> frozenset[str]:
    """Its country's code, with EU where that is a member; nothing for a name nobody knows."""
    country = _COUNTRY.get(region)
    if country is None:
        return frozenset()
    return frozenset({country, "EU"} if country in EU else {country})
