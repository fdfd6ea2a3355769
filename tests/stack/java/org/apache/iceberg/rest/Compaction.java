package org.apache.iceberg.rest;

import java.io.IOException;
import java.util.HashSet;
import java.util.Set;
import java.util.UUID;
import org.apache.iceberg.DataFile;
import org.apache.iceberg.FileScanTask;
import org.apache.iceberg.Table;
import org.apache.iceberg.catalog.Catalog;
import org.apache.iceberg.catalog.TableIdentifier;
import org.apache.iceberg.data.IcebergGenerics;
import org.apache.iceberg.data.Record;
import org.apache.iceberg.data.parquet.GenericParquetWriter;
import org.apache.iceberg.io.CloseableIterable;
import org.apache.iceberg.io.DataWriter;
import org.apache.iceberg.io.OutputFile;
import org.apache.iceberg.parquet.Parquet;

/**
 * What engines do to many small files: all data files of an unpartitioned table become one, by
 * Iceberg's own readers, writers and {@code newRewrite}. The snapshot is a replace; commits of
 * others in between are met with Iceberg's own retry.
 */
class Compaction {
  private Compaction() {}

  /** What was done: data files that were replaced, and rows in the one that replaced them. */
  record Result(int files, long rows, long snapshotId) {}

  static Result run(Catalog catalog, String name) throws IOException {
    Table table = catalog.loadTable(TableIdentifier.parse(name));
    long read = table.currentSnapshot().snapshotId();
    Set<DataFile> before = new HashSet<>();
    try (CloseableIterable<FileScanTask> tasks = table.newScan().useSnapshot(read).planFiles()) {
      tasks.forEach(task -> before.add(task.file()));
    }
    DataFile after = copy(table, read);
    table
        .newRewrite()
        .validateFromSnapshot(read)
        .rewriteFiles(before, Set.of(after))
        .commit();
    long snapshotId = table.currentSnapshot().snapshotId();
    return new Result(before.size(), after.recordCount(), snapshotId);
  }

  private static DataFile copy(Table table, long snapshotId) throws IOException {
    String place = table.locationProvider().newDataLocation(UUID.randomUUID() + ".parquet");
    OutputFile file = table.io().newOutputFile(place);
    DataWriter<Record> writer =
        Parquet.writeData(file).forTable(table).createWriterFunc(GenericParquetWriter::create)
            .build();
    try (writer;
        CloseableIterable<Record> rows =
            IcebergGenerics.read(table).useSnapshot(snapshotId).build()) {
      rows.forEach(writer::write);
    }
    return writer.toDataFile();
  }
}
