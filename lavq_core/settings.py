"""Every setting of a run: its key, type, default and meaning. ``lavq_core.config`` composes and checks them."""

from __future__ import annotations

from dataclasses import dataclass, field

SCHEDULES = ("cosine", "linear", "constant")  # of the detector's learning rate after its warm-up
SHAREABLE = ("separator", "editor", "prior")  # networks that may leave a site beside codebook and detector
ROBUST = ("multikrum", "trimmedmean")  # strategies that withstand bad sites
PRIVATE_CODEBOOKS = ("gradient", "sums")  # how codes are learned where training is private
DETECTORS = ("resnet", "features", "combined")
STRATEGIES = ("fedavg", "fedprox", "fedadam", *ROBUST)


@dataclass
class RunConfig:
    """What this run is."""

    dir: str = ""  # run folder, absolute; empty: runs/TIME in the working directory (set by the command)
    seed: int = 0  # every generator but those of privacy starts from it
    device: str = "auto"  # auto (a GPU when there is one), cpu or cuda
    resume: bool = False  # go on in dir after its newest checkpoint, with the settings that it was started with
    tensorboard: bool = False  # write the server's events as scalars too, below dir (needs the extra [tensorboard])


@dataclass
class DataConfig:
    """Where the ECGs lie and how they are read."""

    dir: str = ""  # a folder in PTB-XL's layout, absolute; empty: the bundled sample
    cache_dir: str = ""  # packed signals; empty: the user's cache folder
    sampling_rate: int = 100  # Hz, 100 or 500
    minimum_likelihood: float = 0.0  # of a diagnostic statement, in per cent; 0 counts every statement present
    train_folds: list[int] = field(default_factory=lambda: list(range(1, 9)))  # trained on
    validation_fold: int = 9  # chooses and calibrates
    test_fold: int = 10  # scored once, at the end


@dataclass
class PartitionConfig:
    """How a simulation deals one database out to hospitals (a deployment has real ones)."""

    scheme: str = "site"  # site, dirichlet:ALPHA or iid; always patient-disjoint
    seed: int = 0  # of dirichlet and iid
    withhold: list[str] = field(default_factory=list)  # SITE:CLASS, that site trains without its records of that class
    members: str = ""  # file of patient ids, one a line: trained on whatever their fold, and nobody else (audits)


@dataclass
class TextConfig:
    """The report memory that guides the separator."""

    source: str = "statements"  # statements (English descriptions of the SCP codes) or report (free text)
    encoder: str = "lsa"  # lsa (embedded, offline), or a transformers hub id or local folder
    width: int = 48  # width of an embedding after reduction


@dataclass
class CodebookConfig:
    """The shared codebook of disease codes."""

    size: int = 128  # number of codes K
    dim: int = 32  # width of a code D
    decay: float = 0.5  # what the running statistics keep per round when the sites' sums are added
    ema: float = 0.99  # moving average of the codes during a site's local steps; 0 where training is private


@dataclass
class SeparatorConfig:
    """Separator, editor and prior network; they see one median beat, .96 s."""

    width: int = 64  # channels of a token
    stride: int = 4  # samples a token: 40 ms at 100 Hz
    blocks: int = 3  # residual blocks behind each stem
    heads: int = 4  # of every attention
    gate_threshold: float = 0.5  # a token is edited when its gate probability exceeds it


@dataclass
class SeparatorLossConfig:
    """Weights of the separator's and editor's losses (``lavq_core.training.separator_losses``); 0 switches one off."""

    reconstruction: float = 3.0  # recomposed abnormal beat against the real one
    judge_healed: float = 1.0  # frozen detector reads NORM in the healed beat
    judge_twin: float = 2.0  # frozen detector scores the twin like the record its codes came from
    statements: float = 1.5  # the site's own classifier of beats scores the statements of the twin like the record's
    cycle: float = 1.0  # healed twin against the healthy beat it came from
    identity: float = 0.02  # the twin is nearer to its own patient than to others of the batch (couples the batch)
    adversarial: float = 0.2  # class-conditional discriminator on twins and healed beats
    closure: float = 0.5  # the codes alone tell the superclasses
    usage: float = 0.3  # all codes are used alike (couples the batch)
    commitment: float = 0.25  # latents stay near their codes
    gate_cycle: float = 0.5  # separating a twin finds the gate it was made with
    code_cycle: float = 0.25  # ... and the codes
    sparsity: float = 0.3  # mean gate of abnormal records
    norm_gate: float = 1.0  # mean gate of NORM records, which should be nothing
    wrong_report: float = 0.6  # a report of other diseases does not open what the record's own opens
    gate_bounds: float = 6.0  # keeps the abnormal gate from dying early and from opening everywhere
    gate_floor: float = 0.2  # ... below this mean
    gate_ceiling: float = 0.31  # ... and above this one
    smoothness: float = 0.05  # neighbouring tokens agree


@dataclass
class SeparatorTrainingConfig:
    """Local training of separator, editor and prior network."""

    after: float = 0.25  # share of the rounds before it starts: its judge, the broadcast detector, learns first
    steps: int = 120  # per round
    batch: int = 48  # abnormal records and as many NORM ones
    lr: float = 2e-3  # peak of one cosine schedule over its rounds
    weight_decay: float = 1e-4
    prior_weight_decay: float = 1e-2
    opponents_lr: float = 1e-3  # of discriminator and beat classifier
    loss: SeparatorLossConfig = field(default_factory=SeparatorLossConfig)


@dataclass
class DetectorConfig:
    """A 1-D ResNet with GroupNorm on the 8 independent leads, a linear head on fixed features, or both."""

    kind: str = "resnet"  # resnet; features (``lavq_core.models.feature_detector``; no size below applies); combined
    width: int = 32  # channels of the first stage; later stages widen by half
    blocks: int = 4  # residual blocks, each halves time
    kernel: int = 7  # samples
    dropout: float = 0.2  # before the head
    hidden: int = 128  # combined: units of the perceptron that reads the fixed features
    pretrained: str = ""  # features: folder of a resnet's or combined run on public ECGs (none of a site's)
    pretrained_sha256: str = ""  # of its model/detector.safetensors; `lavq run`, `demo` and `experiment` fill it in
    start: str = ""  # features: folder of a features run on public ECGs, whose head training starts from


@dataclass
class DetectorTrainingConfig:
    """Local training of the detector."""

    epochs: float = 4.0  # per round, over the site's training records (and its twins)
    steps: int = 0  # per round, the same at every site, whose batch is then epochs / steps of its data; 0: as needed
    batch: int = 32  # where steps is 0
    crop: float = 0.0  # s, train on random stretches of this length; 0: on whole records
    lr: float = 2e-3  # peak of one schedule over all rounds
    schedule: str = "cosine"  # from the peak to the end: cosine, linear or constant
    warmup: float = 0.1  # share of the whole training over which the rate rises to its peak
    weight_decay: float = 0.02
    positive_weights: list[float] = field(default_factory=list)  # of a positive label, NORM to HYP; []: 1 each
    momentum: float = 0.9  # of a features detector's gradient steps; others take AdamW's
    averaging: float = 0.0  # memory of a running mean of the weights, a share of the local call's steps; 0: off
    noise: float = 0.03  # mV, white noise added
    amplitude: float = 0.2  # relative spread of a record's gain
    shift: float = 0.5  # s, largest circular time shift
    warp: float = 0.0  # s, largest displacement of a slow time warp
    tada: float = 0.0  # s, farthest that an adversarial warp (``lavq_core.training.tada``) moves a sample; 0: off
    wander: float = 0.1  # mV, baseline wander added
    lead_dropout: float = 0.1  # chance that a lead is blanked


@dataclass
class CalibrationConfig:
    """Temperatures and thresholds that come with a detector, chosen on the validation fold."""

    sensitivity: float = 0.9  # which a class's threshold must reach


@dataclass
class PersonalConfig:
    """One patient's detector (``lavq_core.training.personal``)."""

    twins: int = 8  # of each disease
    steps: int = 24
    batch: int = 16
    lr: float = 3e-4
    anchor: float = 0.3  # weight of the squared distance to the population's weights


@dataclass
class TwinConfig:
    """Twins of a site's healthy patients that its detector trains on."""

    after: float = 0.5  # share of the rounds before the first ones: the separator learns first
    per_record: int = 1  # twins a NORM-only training record and round
    weight: float = 0.5  # of a twin in the detector's loss, beside a real record's 1
    strength: float = 1.0  # dose of the disease, 0 to 1
    gallery: int = 8  # twins a site keeps for the report


@dataclass
class FederationConfig:
    """The round loop."""

    sites: int = 4  # hospitals expected
    min_sites: int = 3  # quorum: fewer good replies end the run with an error
    rounds: int = 8
    share: list[str] = field(default_factory=lambda: ["separator", "editor", "prior"])  # networks averaged, may be []
    strategy: str = "fedavg"  # fedavg, fedprox, fedadam; of six or more sites, some bad: multikrum, trimmedmean
    proximal: float = 0.01  # fedprox: weight of the way from the broadcast detector in a site's loss
    server_lr: float = 0.01  # fedadam: the server's learning rate
    malicious: int = 1  # multikrum, trimmedmean: bad sites that a round withstands
    average_moments: bool = False  # AdamW's moments travel and are averaged with the detector; else a round starts anew
    norm_cap: float = 10.0  # an update of more than so many times the round's median norm is left out; 0: no cap
    max_weight_share: float = 0.5  # a site's largest share in the average; what is above is cut
    join_timeout: float = 120.0  # s, wait for the expected sites
    round_timeout: float = 600.0  # s, wait for the replies of one round
    enough: int = 0  # go on, after a short grace, once so many sites gave a usable reply; 0: wait for all
    retries: int = 1  # times a site that failed is asked again within round_timeout
    nodes: str = ""  # file: JSON of node ids and the sites that they are; `lavq deploy run` fills it in


@dataclass
class AuditConfig:
    """Membership inference on what a run leaves behind."""

    enabled: bool = True
    shadows: int = 8  # shadow federations, each trained on half of the patients; even, at least 6
    whole: bool = False  # shadows train separator, editor and twins too: dear, and attacks on those become sharper


@dataclass
class PrivacyConfig:
    """Differential privacy per patient of a site, over the whole training; ``configs/privacy`` sets it."""

    epsilon: float = 0.0  # what a training may cost; 0: nothing is private, and no epsilon is claimed
    delta: float = 1e-5  # a site of more than 1 / (10 delta) training patients refuses
    clipping_norm: float = 0.5  # C, the longest contribution of a patient to a step
    separator_share: float = 0.5  # of what is the detector's, if separator and codebook train as well: their part
    separator_rate: float = 0.1  # chance that a patient takes part in a step of the separator
    separator_clipping_norm: float = 1.0  # C of its steps
    codebook: str = "gradient"  # codes are learned by gradient in the same clip, or by private sums of latents (sums)
    epsilon_max: float = 0.0  # a simulated site's limit over all its runs; 0: epsilon. A real one's is in its policy


@dataclass
class Config:
    """The whole configuration of a run."""

    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    separator: SeparatorConfig = field(default_factory=SeparatorConfig)
    separator_training: SeparatorTrainingConfig = field(default_factory=SeparatorTrainingConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    detector_training: DetectorTrainingConfig = field(default_factory=DetectorTrainingConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    personal: PersonalConfig = field(default_factory=PersonalConfig)
    twins: TwinConfig = field(default_factory=TwinConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
