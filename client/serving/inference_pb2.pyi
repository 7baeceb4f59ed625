from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Sex(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEX_UNKNOWN: _ClassVar[Sex]
    MALE: _ClassVar[Sex]
    FEMALE: _ClassVar[Sex]
SEX_UNKNOWN: Sex
MALE: Sex
FEMALE: Sex

class Ecg(_message.Message):
    __slots__ = ("id", "sampling_rate", "unit", "leads", "samples")
    ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_RATE_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    LEADS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    id: str
    sampling_rate: float
    unit: str
    leads: _containers.RepeatedScalarFieldContainer[str]
    samples: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, id: _Optional[str] = ..., sampling_rate: _Optional[float] = ..., unit: _Optional[str] = ..., leads: _Optional[_Iterable[str]] = ..., samples: _Optional[_Iterable[float]] = ...) -> None: ...

class DetectRequest(_message.Message):
    __slots__ = ("ecgs",)
    ECGS_FIELD_NUMBER: _ClassVar[int]
    ecgs: _containers.RepeatedCompositeFieldContainer[Ecg]
    def __init__(self, ecgs: _Optional[_Iterable[_Union[Ecg, _Mapping]]] = ...) -> None: ...

class DetectResponse(_message.Message):
    __slots__ = ("model", "detections")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DETECTIONS_FIELD_NUMBER: _ClassVar[int]
    model: Model
    detections: _containers.RepeatedCompositeFieldContainer[Detection]
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ..., detections: _Optional[_Iterable[_Union[Detection, _Mapping]]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("id", "round", "calibrated", "calibration")
    ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    CALIBRATED_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    id: str
    round: int
    calibrated: bool
    calibration: str
    def __init__(self, id: _Optional[str] = ..., round: _Optional[int] = ..., calibrated: _Optional[bool] = ..., calibration: _Optional[str] = ...) -> None: ...

class Detection(_message.Message):
    __slots__ = ("id", "scores", "problem", "remarks")
    ID_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    REMARKS_FIELD_NUMBER: _ClassVar[int]
    id: str
    scores: _containers.RepeatedCompositeFieldContainer[ClassScore]
    problem: str
    remarks: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[str] = ..., scores: _Optional[_Iterable[_Union[ClassScore, _Mapping]]] = ..., problem: _Optional[str] = ..., remarks: _Optional[_Iterable[str]] = ...) -> None: ...

class ClassScore(_message.Message):
    __slots__ = ("name", "probability", "threshold", "reached")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    REACHED_FIELD_NUMBER: _ClassVar[int]
    name: str
    probability: float
    threshold: float
    reached: bool
    def __init__(self, name: _Optional[str] = ..., probability: _Optional[float] = ..., threshold: _Optional[float] = ..., reached: _Optional[bool] = ...) -> None: ...

class MakeTwinsRequest(_message.Message):
    __slots__ = ("ecg", "disease", "count", "strength", "age", "sex", "seed")
    ECG_FIELD_NUMBER: _ClassVar[int]
    DISEASE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    SEX_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    ecg: Ecg
    disease: str
    count: int
    strength: float
    age: float
    sex: Sex
    seed: int
    def __init__(self, ecg: _Optional[_Union[Ecg, _Mapping]] = ..., disease: _Optional[str] = ..., count: _Optional[int] = ..., strength: _Optional[float] = ..., age: _Optional[float] = ..., sex: _Optional[_Union[Sex, str]] = ..., seed: _Optional[int] = ...) -> None: ...

class Twin(_message.Message):
    __slots__ = ("number", "ecg", "statements", "original", "twin", "model")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ECG_FIELD_NUMBER: _ClassVar[int]
    STATEMENTS_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_FIELD_NUMBER: _ClassVar[int]
    TWIN_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    number: int
    ecg: Ecg
    statements: _containers.RepeatedScalarFieldContainer[str]
    original: _containers.RepeatedCompositeFieldContainer[ClassScore]
    twin: _containers.RepeatedCompositeFieldContainer[ClassScore]
    model: Model
    def __init__(self, number: _Optional[int] = ..., ecg: _Optional[_Union[Ecg, _Mapping]] = ..., statements: _Optional[_Iterable[str]] = ..., original: _Optional[_Iterable[_Union[ClassScore, _Mapping]]] = ..., twin: _Optional[_Iterable[_Union[ClassScore, _Mapping]]] = ..., model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...
