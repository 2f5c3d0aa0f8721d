"""The worker: takes jobs of the catalog's queue and does them, one at a time, on one device.

    from ingest.worker.worker import Worker

    with Atlas.open() as atlas:
        Worker(atlas, name="gpu-1", device="cuda:0").run()

`docs/decisions/0011-jobs-and-dbos.md` says what the `jobs` table and DBOS each do.
"""
