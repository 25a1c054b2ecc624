"""The order of test files: the longest begin first, so that no worker of two ends alone with one of them."""

LONGEST_FIRST = (
    "tests/system/test_faults_cluster.py",
    "tests/system/test_submitted_jobs.py",
    "tests/pipelines/stages/test_train.py",
    "tests/pipelines/tracking/test_mlflow_server.py",
    "tests/pipelines/stages/test_score.py",
    "tests/system/test_stages_in_s3.py",
    "tests/repository/test_readme.py",
    "tests/pipelines/studies/test_systems_study.py",
    "tests/pipelines/stages/test_shard.py",
    "tests/pipelines/stages/test_pretrain.py",
    "tests/pipelines/training/systems/test_systems.py",
    "tests/pipelines/stages/test_report.py",
    "tests/repository/test_tutorial.py",
    "tests/repository/test_public_api.py",
    "tests/pipelines/studies/test_concepts.py",
    "tests/pipelines/studies/test_attribution_benchmark.py",
    "tests/pipelines/learning/test_learn.py",
    "tests/pipelines/studies/test_ablation.py",
    "tests/repository/test_docs.py",
    "tests/pipelines/tracking/test_pyfunc_model.py",
)


def duration_rank(node_id: str) -> int:
    """Place of a test's file among the longest; the same for all others."""
    name = node_id.partition("::")[0]
    return LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST)
