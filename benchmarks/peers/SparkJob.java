import java.util.concurrent.TimeUnit;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.functions;
import org.apache.spark.sql.streaming.Trigger;
import org.apache.spark.sql.types.StructType;

/**
 * BOOTSTRAP TOPIC URI WAREHOUSE NAMESPACE TABLE SECONDS FOLDER: Spark Structured Streaming in one
 * process, from Kafka into an Iceberg table that exists, exactly once, a micro-batch (a commit) every
 * so many seconds. A batch takes all that the topic has, which is its default.
 */
public class SparkJob {
  private static final String EVENT =
      "event_id BIGINT, event_type STRING, user_id BIGINT, session_id STRING, "
          + "product STRUCT<sku: STRING, category: STRING, price: DOUBLE>, quantity BIGINT, "
          + "amount DOUBLE, currency STRING, is_mobile BOOLEAN, tags ARRAY<STRING>, "
          + "country STRING, event_time TIMESTAMP";

  public static void main(String[] args) throws Exception {
    SparkSession spark =
        SparkSession.builder()
            .master("local[2]")
            .appName(args[5])
            .config("spark.ui.enabled", "false")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.local.dir", args[7])
            .config("spark.sql.warehouse.dir", args[7] + "/warehouse")
            .config("spark.sql.session.timeZone", "UTC")
            .config("spark.sql.catalog.lake", "org.apache.iceberg.spark.SparkCatalog")
            .config("spark.sql.catalog.lake.type", "rest")
            .config("spark.sql.catalog.lake.uri", args[2])
            .config("spark.sql.catalog.lake.warehouse", args[3])
            .getOrCreate();
    spark.sparkContext().setLogLevel("WARN");
    Dataset<Row> events =
        spark
            .readStream()
            .format("kafka")
            .option("kafka.bootstrap.servers", args[0])
            .option("subscribe", args[1])
            .option("startingOffsets", "earliest")
            .load()
            .select(
                functions
                    .from_json(
                        functions.col("value").cast("string"), StructType.fromDDL(EVENT))
                    .alias("event"))
            .select("event.*");
    events
        .writeStream()
        .format("iceberg")
        .outputMode("append")
        .trigger(Trigger.ProcessingTime(Long.parseLong(args[6]), TimeUnit.SECONDS))
        .option("checkpointLocation", args[7] + "/checkpoints")
        .toTable("lake." + args[4] + "." + args[5])
        .awaitTermination();
  }
}
