"""The words that a query may hold, and where. Lower case."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Words that start or carry anything but a read.
FORBIDDEN = _words(
    """
    alter analyze attach call copy create delete describe detach drop exec execute explain export
    grant insert install into lateral merge pivot pragma prepare revoke show table tablesample
    truncate unpivot update vacuum
    """
)

#: Keywords that may stand in front of a parenthesis.
KEYWORDS = _words(
    """
    all and any array as between by case char character cube decimal distinct else except exclude
    exists filter from group having ilike in intersect is join like limit not numeric offset on or
    order over qualify rename rlike regexp rollup select sets similar some then union using values
    varchar when where within
    """
)

#: Functions of Polars' SQL that compute from their arguments alone.
FUNCTIONS = _words(
    """
    abs acos acosd approx_count_distinct approx_quantile array_agg array_contains array_get
    array_dot_product array_inner_product array_length array_lower array_mean array_reverse
    array_sum array_to_string array_unique array_upper asin asind atan atan2 atan2d atand avg
    bit_and bit_count bit_length bit_not bit_or bit_xor cast cbrt ceil ceiling char_length
    character_length coalesce columns concat concat_ws corr cos cosd cot cotd count covar covar_pop
    covar_samp cume_dist current_date current_time current_timestamp date date_part date_trunc
    datetime degrees dense_rank div ends_with exp explode extract first first_value floor greatest
    group_concat grouping grouping_id if ifnull initcap lag last last_value lead least left len
    length listagg ln log log10 log1p log2 lower lpad ltrim max mean median min mod normalize now
    nth_value ntile nullif octet_length percent_rank pi position pow power quantile_cont
    quantile_disc radians rank regexp_like regexp_replace replace reverse right round row_number
    rpad rtrim safe_cast sign sin sind split_part sqrt starts_with stddev stddev_samp stdev
    stdev_samp strftime string_agg string_to_array strpos strptime substr substring sum tan tand
    time timestamp trim trunc truncate try_cast unnest upper var var_samp variance variance_samp
    xor year month day hour minute second
    """
)

#: Their arguments may hold a FROM that names no table.
FROM_INSIDE = frozenset({"extract", "trim", "substring", "position", "ltrim", "rtrim"})
#: A FROM list ends here.
END_OF_FROM = _words(
    """
    where group having order limit offset qualify window union intersect except select fetch
    """
)
