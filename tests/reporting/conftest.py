"""Report documents: one realistic with two targets, one where every figure is blank."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

from kdexport.nouns.cost import Assumption, Capacity, CostLine, CostReport, Who
from kdexport.nouns.target import Traffic

TRAFFIC = Traffic(mean_requests_per_s=200, peak_requests_per_s=600, assumed=True)
L4_SOURCE = "https://aws.amazon.com/ec2/pricing/on-demand/ <us-east-1>"


def _measured(p50_ms: float, p90_ms: float, p99_ms: float, width: float = 0.02) -> dict[str, Any]:
    ci95 = [p50_ms * (1 - width), p50_ms * (1 + width)]
    return {"kind": "measured", "p50_ms": p50_ms, "p90_ms": p90_ms, "p99_ms": p99_ms, "n": 2000, "ci95": ci95} | {
        "error_interval": [],
        "environment": "env-1",
    }


def _estimated(p50_ms: float, factor: float) -> dict[str, Any]:
    interval = [p50_ms / factor, p50_ms * factor]
    blanks = {"p90_ms": None, "p99_ms": None, "n": 0, "ci95": [], "environment": ""}
    return {"kind": "estimated", "p50_ms": p50_ms, "error_interval": interval, "model": "absent"} | blanks


def _line(
    who: Who, rps: float, low: float, high: float, replicas: int, years: tuple[int, int], **more: Any
) -> CostLine:
    hourly = 0.8048
    yearly = replicas * hourly * 8760
    return CostLine(
        who=who,
        target="l4",
        traffic=TRAFFIC,
        redundancy=1,
        capacity=Capacity(requests_per_s=rps, kind="estimated", error_interval=(low, high), how="simulated queue"),
        replicas=replicas,
        kind="estimated",
        usd_per_replica_hour=hourly,
        usd_per_hour=replicas * hourly,
        usd_per_year=yearly,
        usd_per_year_interval=(years[0] * hourly * 8760, years[1] * hourly * 8760),
        usd_per_million=yearly / (200 * 3600 * 8760 / 1e6),
        region="us-east-1",
        price_basis="list price of an hour",
        price_source=L4_SOURCE,
        price_date="2026-10-02",  # type: ignore[arg-type]
        quality_label="accuracy on 3,080 test rows",
        assumptions=(),
        **more,
    )


def _l4_report() -> dict[str, Any]:
    report = CostReport(
        target="l4",
        lines=(
            _line("incumbent", 240, 130, 420, 4, (3, 6), quality=0.9282),
            _line("teacher_quantised", 380, 210, 690, 3, (2, 4), quality=0.9247),
            _line("student", 9400, 5200, 16800, 2, (2, 2), quality=0.9266),
        ),
        saving_usd_per_year=2 * 0.8048 * 8760,
        saving_interval_usd_per_year=(0.8048 * 8760, 4 * 0.8048 * 8760),
        zero_saving_requests_per_s=239.5,
        incumbent="the teacher on this same target (assumed: the project names no incumbent)",
        assumptions=(
            Assumption(key="traffic.peak", value=600, unit="requests/s", source="traffic of the target", assumed=True),
            Assumption(
                key="aws-us-east-1-g6.xlarge.price",
                value=0.8048,
                unit="USD/hour",
                source=L4_SOURCE,
                date="2026-10-02",  # type: ignore[arg-type]
                note="without storage",
                assumed=False,
            ),
        ),
    )
    return report.model_dump(mode="json")


def _local_report() -> dict[str, Any]:
    def line(who: Who, rps: float, quality: float) -> CostLine:
        return CostLine(
            who=who,
            target="local-cpu",
            traffic=Traffic(mean_requests_per_s=5, peak_requests_per_s=20, assumed=True),
            redundancy=0,
            capacity=Capacity(requests_per_s=rps, kind="measured", ci95=(rps * 0.97, rps * 1.03), how="1 / mean"),
            replicas=1,
            kind="measured",
            quality=quality,
            quality_label="accuracy on 3,080 test rows",
            note="no price: target 'local-cpu' names no offering",
        )

    return CostReport(
        target="local-cpu",
        lines=(line("incumbent", 221, 0.9282), line("teacher_quantised", 405, 0.9247), line("student", 8810, 0.9266)),
        saving_usd_per_year=None,
        zero_saving_requests_per_s=None,
        note="incumbent: no price: target 'local-cpu' names no offering",
        assumptions=(
            Assumption(key="traffic.peak", value=20, unit="requests/s", source="traffic of the target", assumed=True),
        ),
    ).model_dump(mode="json")


def _per_class() -> list[dict[str, Any]]:
    draw = random.Random(7)
    names = [
        "card_arrival", "lost_or_stolen_card", "<script>alert(1)</script>", "top_up_failed", "exchange_rate",
        "pending_transfer", "wrong_amount_of_cash_received", "verify_my_identity", "country_support", "pin_blocked",
        "balance_not_updated_after_bank_transfer", "declined_card_payment", "cash_withdrawal_charge",
        "beneficiary_not_allowed", "edit_personal_details", "age_limit", "terminate_account", "atm_support",
        "fiat_currency", "refund_not_showing_up",
        "virtual_card_not_working", "transfer_timing", "visa_or_mastercard", "getting_spare_card",
    ]  # fmt: skip
    return [
        {"class": name, "n": 40, "teacher": k / 40, "student": min(40, k + draw.choice((-4, -2, -1, 0, 0, 1, 2))) / 40}
        for name, k in ((name, draw.randint(33, 40)) for name in names)
    ]


def _candidates(scale: float) -> list[dict[str, Any]]:
    found = []
    for embedding, hidden, params, kept, ms in (
        (16, 96, 84_000, 0.962, 0.052), (32, 160, 182_400, 0.991, 0.068), (64, 128, 318_000, 0.987, 0.075),
        (128, 256, 704_000, 0.998, 0.14), (192, 384, 1_420_000, 0.999, 0.31),
    ):  # fmt: skip
        spec = {"backbone": "convolution", "vocab_size": 4349, "embedding_size": embedding, "hidden_size": hidden}
        found.append({
            "spec": spec,
            "params": params,
            "predicted_retention": {"value": kept, "low": kept - 0.012, "high": kept + 0.009},
            "p50_ms": ms * scale,
            "low_ms": ms * scale * 0.85,
            "high_ms": ms * scale * 1.18,
            "usd_per_year": 14_100.1 if scale > 1 else None,
            "chosen": hidden == 160,
            "why_not": {160: "", 96: "predicted retention below 0.97"}.get(hidden, "slower, costs the same"),
        })  # fmt: skip
    return found


STUDENT = {
    "params": 182_413,
    "params_without_embeddings": 43_245,
    "spec": {"backbone": "convolution", "vocab_size": 4349, "embedding_size": 32, "hidden_size": 160},
}
SHARED = {
    "student": STUDENT,
    "quality": {"value": 0.9266, "ci95": [0.9168, 0.9353], "n": 3080},
    "retention": {"value": 0.9983, "ci95": [0.9897, 1.0068]},
    "retention_kind": "retention",
    "gate": {"min_retention": 0.97, "kind": "point", "met": True, "interval_excludes_failure": True},
    "verified_on": "onnxruntime/fp32",
    "size": {"teacher_bytes": 91_625_000, "student_bytes": 1_021_440, "params_ratio": 124.6, "bytes_ratio": 89.7},
    "per_class": _per_class(),
    "bundle_sha256": "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
    "parity": {"max_abs_err": 0.0213, "agreement": 0.9994},
}


def _local_target() -> dict[str, Any]:
    return copy.deepcopy(SHARED) | {
        "target": "local-cpu",
        "name": "This machine's CPU",
        "runtime": "onnxruntime",
        "precision": "int8",
        "artifact": "engine",
        "bundle": "bundles/local-cpu",
        "objective": {
            "percentile": 99,
            "limit_ms": 10,
            "scope": "end_to_end",
            "scenario": "single_stream",
            "met": True,
            "value_ms": 0.211,
            "basis": "measured p99 of 2,000 requests, upper bound",
        },
        "latency": {
            "teacher": _measured(3.14, 3.92, 4.87),
            "student": _measured(0.0713, 0.0931, 0.198, 0.05),
            "speedup": {"value": 44.04, "ci95": [41.2, 46.9]},
        },
        "latency_model": {
            "teacher": _measured(3.02, 3.77, 4.61),
            "student": _measured(0.0462, 0.0588, 0.131, 0.05),
            "speedup": {"value": 65.4, "ci95": [61.0, 69.9]},
        },
        "cost": {
            "incumbent_usd_per_year": None,
            "teacher_quantised_usd_per_year": None,
            "student_usd_per_year": None,
            "saving_usd_per_year": None,
            "zero_saving_requests_per_s": None,
            "usd_per_million": {"incumbent": None, "teacher_quantised": None, "student": None},
            "report": _local_report(),
        },
        "engines": [
            {"runtime": "onnxruntime", "precision": "fp32", "quality": 0.9269, "p50_ms": 0.0934, "kind": "measured",
             "bytes": 1_890_330, "chosen": False, "reason": "slower than int8 at the same quality"},
            {"runtime": "onnxruntime", "precision": "int8", "quality": 0.9266, "p50_ms": 0.0713, "kind": "measured",
             "bytes": 1_021_440, "chosen": True, "reason": "fastest within 0.5 points of fp32"},
            {"runtime": "openvino", "precision": "fp32", "quality": None, "p50_ms": None, "kind": "measured",
             "bytes": None, "chosen": False, "reason": "unsupported, because openvino is not installed"},
        ],
        "candidates": _candidates(1.0),
        "notes": ["Without distillation, TF-IDF with logistic regression reaches 0.8925 on the same rows."],
    }  # fmt: skip


def _l4_target() -> dict[str, Any]:
    report = _l4_report()
    return copy.deepcopy(SHARED) | {
        "target": "l4",
        "name": "AWS g6.xlarge, one L4",
        "runtime": "tensorrt_rtx",
        "precision": "fp16",
        "artifact": "recipe",
        "bundle": "bundles/l4",
        "objective": {
            "percentile": 99,
            "limit_ms": 10,
            "scope": "end_to_end",
            "scenario": "server",
            "met": None,
            "value_ms": None,
            "basis": "no engine has run on this device; the estimated median leaves room",
        },
        "latency": {
            "teacher": _estimated(1.31, 1.8),
            "student": _estimated(0.186, 1.8),
            "speedup": {"value": 7.04, "ci95": [2.9, 16.8]},
        },
        "latency_model": {
            "teacher": _estimated(1.22, 1.8),
            "student": _estimated(0.129, 1.8),
            "speedup": {"value": 9.46, "ci95": [3.9, 22.7]},
        },
        "cost": {
            "incumbent_usd_per_year": report["lines"][0]["usd_per_year"],
            "teacher_quantised_usd_per_year": report["lines"][1]["usd_per_year"],
            "student_usd_per_year": report["lines"][2]["usd_per_year"],
            "saving_usd_per_year": report["saving_usd_per_year"],
            "zero_saving_requests_per_s": 239.5,
            "usd_per_million": {line["who"]: line["usd_per_million"] for line in report["lines"]},
            "report": report,
        },
        "engines": [
            {"runtime": "tensorrt_rtx", "precision": "fp16", "quality": None, "p50_ms": 0.186, "kind": "estimated",
             "bytes": 742_100, "chosen": True, "reason": "fastest by estimate; built and checked on the device"},
        ],
        "candidates": _candidates(2.7),
        "plan": {"reason": "nothing reaches both limits", "feasible": False, "nearest": "met: limit_ms 12"},
        "notes": ["TensorRT engines are bound to their GPU: the bundle is a recipe that builds on the device."],
    }  # fmt: skip


def _document() -> dict[str, Any]:
    return {
        "schema": 1,
        "kdexport": "0.1.0",
        "created": "2026-11-24T20:15:00Z",
        "project": {"name": "banking-intents", "task": "text_classification", "metric": "accuracy"},
        "decision": "Ship the 182 k convolution on both targets: it keeps 99.8 % of the teacher's accuracy "
        "and saves an estimated $14,100 a year on the L4.",
        "warnings": [
            "The traffic of target l4 is assumed (200 requests/s mean, 600 peak): confirm it first.",
            "The teacher's licence to be distilled is unknown.",
        ],
        "environments": {
            "env-1": {
                "id": "env-1",
                "cpu": "Intel Xeon Platinum 8488C",
                "isa": ["avx2", "avx512f", "avx512_vnni", "amx_int8"],
                "cores_allowed": 2.0,
                "memory_bytes": 16_508_125_184,
                "threads": 1,
                "platform": "Linux-6.1-x86_64",
                "python": "3.11.2",
                "packages": {"onnxruntime": "1.32.0", "torch": "2.13.0"},
                "taken_at": "2026-11-24T19:58:12Z",
            }
        },
        "data": {"train": 9003, "dev": 1000, "test": 3080, "unlabelled": 18_000, "augmented": 60_000},
        "training": [
            {
                "targets": ["local-cpu", "l4"],
                "spec": STUDENT["spec"],
                "epochs": 12,
                "losses": [2.91, 1.22, 0.71, 0.49, 0.37, 0.30, 0.25, 0.21, 0.19, 0.17, 0.16, 0.155],
                "dev_quality": [0.612, 0.801, 0.868, 0.893, 0.905, 0.911, 0.915, 0.919, 0.922, 0.924, 0.925, 0.925],
                "seconds": 116.4,
            }
        ],
        "teacher": {
            "name": "minilm-banking",
            "params": 22_713_677,
            "bytes": 91_625_000,
            "licence": {"distillation": "unknown", "source": ""},
            "quality": {"metric": "accuracy", "value": 0.9282, "ci95": [0.9186, 0.9368], "n": 3080},
            "engines": [
                {"label": "onnxruntime/fp32", "quality": 0.9282, "end_to_end": _measured(3.14, 3.92, 4.87),
                 "model": _measured(3.02, 3.77, 4.61), "bytes": 91_625_000},
                {"label": "onnxruntime/int8", "quality": 0.9247, "end_to_end": _measured(1.71, 2.20, 2.90),
                 "model": _measured(1.60, 2.04, 2.71), "bytes": 23_480_000},
            ],
        },
        "targets": [_local_target(), _l4_target()],
    }  # fmt: skip


@pytest.fixture
def document() -> dict[str, Any]:
    return _document()


@pytest.fixture
def blank_document() -> dict[str, Any]:
    """Everything that may be null is null, and everything that may be empty is empty."""
    m = {"kind": "estimated", "p50_ms": None, "p90_ms": None, "p99_ms": None, "n": 0, "ci95": [], "environment": ""}
    latency = {"teacher": m, "student": None, "speedup": {"value": None, "ci95": []}}
    return {
        "schema": 1,
        "kdexport": "0.1.0",
        "created": "2026-11-24T20:15:00Z",
        "project": {"name": "empty", "task": "text_classification", "metric": "accuracy"},
        "decision": "No target has a student yet.",
        "warnings": [],
        "environments": {},
        "data": {"train": None, "dev": None, "test": None, "unlabelled": None, "augmented": None},
        "training": [],
        "teacher": {
            "name": "scores.jsonl",
            "params": None,
            "bytes": None,
            "licence": None,
            "quality": {"metric": "accuracy", "value": None, "n": 0, "reason": "the test rows are unlabelled"},
            "engines": [],
        },
        "targets": [
            {
                "target": "raspberry-pi-5",
                "name": "",
                "student": {"params": None, "params_without_embeddings": None, "spec": {}},
                "quality": {"value": None, "ci95": [], "n": 0},
                "retention": {"value": None, "ci95": []},
                "retention_kind": "agreement with the teacher",
                "size": {"teacher_bytes": None, "student_bytes": None, "params_ratio": None, "bytes_ratio": None},
                "latency": latency,
                "latency_model": latency,
                "cost": {"incumbent_usd_per_year": None, "teacher_quantised_usd_per_year": None,
                         "student_usd_per_year": None, "saving_usd_per_year": None,
                         "zero_saving_requests_per_s": None, "usd_per_million": None, "report": None},
                "runtime": None, "precision": None, "artifact": None, "bundle": None, "bundle_sha256": None,
                "parity": {"max_abs_err": None, "agreement": None},
                "objective": None, "engines": [], "per_class": [], "candidates": [], "notes": [],
            }
        ],
    }  # fmt: skip
