import org.apache.flink.configuration.Configuration;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;

/**
 * BOOTSTRAP TOPIC URI WAREHOUSE NAMESPACE TABLE SECONDS FOLDER PORT: Flink SQL in one process, from
 * Kafka into an Iceberg table that exists, exactly once, with a checkpoint (a commit) every so many
 * seconds.
 */
public class FlinkJob {
  public static void main(String[] args) throws Exception {
    Configuration settings = new Configuration();
    settings.setString("execution.checkpointing.interval", args[6] + "s");
    settings.setString("execution.checkpointing.mode", "EXACTLY_ONCE");
    settings.setString("execution.checkpointing.dir", "file://" + args[7] + "/checkpoints");
    settings.setString("parallelism.default", "2");
    settings.setString("rest.address", "127.0.0.1");
    settings.setString("rest.bind-address", "127.0.0.1");
    settings.setString("rest.port", args[8]);
    settings.setString("taskmanager.memory.network.max", "256m");
    TableEnvironment sql =
        TableEnvironment.create(
            EnvironmentSettings.newInstance().inStreamingMode().withConfiguration(settings).build());
    sql.executeSql(
        "CREATE CATALOG lake WITH ('type'='iceberg', 'catalog-type'='rest', 'uri'='"
            + args[2]
            + "', 'warehouse'='"
            + args[3]
            + "')");
    sql.executeSql(
        "CREATE TEMPORARY TABLE events (event_id BIGINT, event_type STRING, user_id BIGINT, "
            + "session_id STRING, product ROW<sku STRING, category STRING, price DOUBLE>, "
            + "quantity BIGINT, amount DOUBLE, currency STRING, is_mobile BOOLEAN, "
            + "tags ARRAY<STRING>, country STRING, event_time TIMESTAMP_LTZ(3)) WITH ("
            + "'connector'='kafka', 'topic'='"
            + args[1]
            + "', 'properties.bootstrap.servers'='"
            + args[0]
            + "', 'properties.group.id'='flink-"
            + args[5]
            + "', 'scan.startup.mode'='earliest-offset', 'format'='json', "
            + "'json.timestamp-format.standard'='ISO-8601')");
    sql.executeSql(
            "INSERT INTO lake."
                + args[4]
                + "."
                + args[5]
                + " SELECT event_id, event_type, user_id, session_id, product, quantity, amount, "
                + "currency, is_mobile, tags, country, CAST(event_time AS TIMESTAMP_LTZ(6)) "
                + "FROM events")
        .await();
  }
}
