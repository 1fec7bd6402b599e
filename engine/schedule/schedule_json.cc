// The JSON format of schedules. One list of fields per record serves both the writer and the
// reader, so that they cannot differ.
#include <algorithm>
#include <concepts>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/str_cat.h"
#include "engine/base/digest.h"
#include "engine/base/json_fault.h"
#include "engine/schedule/quality_fields.h"
#include "engine/schedule/schedule.h"

namespace kascade {
namespace {

using Json = nlohmann::ordered_json;

constexpr int32_t kFormatVersion = 1;
constexpr int32_t kMaxDepth = 8;
constexpr size_t kMaxRows = 64;  // of the kinds and the lengths of a quality check

template <typename Visitor, Is<ModelIdentity> Record>
void visit_fields(Visitor& visit, Record& model) {
  visit("name", model.name);
  visit("weights_digest", model.weights_digest);
  visit("config_digest", model.config_digest);
  visit("tokenizer_digest", model.tokenizer_digest);
}

template <typename Visitor, Is<RequestedSchedule> Record>
void visit_fields(Visitor& visit, Record& requested) {
  visit("anchors", requested.anchors);
  visit("dense_layers", requested.dense_layers);
  visit("auto_dense_layers", requested.auto_dense_layers);
  visit("min_recall", requested.min_recall);
}

template <typename Visitor, Is<CalibrationRecord> Record>
void visit_fields(Visitor& visit, Record& calibration) {
  visit("maker", calibration.planner);
  visit.optional("requested", calibration.requested);
  visit("data_digest", calibration.data_digest);
  visit("held_out_digest", calibration.held_out_digest);
  visit("windows", calibration.windows);
  visit("window_tokens", calibration.window_tokens);
  visit("tokens", calibration.tokens);
  visit("duration_seconds", calibration.duration_seconds);
  visit("threshold", calibration.threshold);
  visit("max_reuse_dist", calibration.max_reuse_dist);
  visit.unless("published_head_map_slip", calibration.published_head_map_slip, false);
  visit.unless("weighted_by_loss", calibration.uses_measured_costs, false);
  visit.unless("auto_threshold", calibration.auto_threshold, false);
}

template <typename Visitor, Is<SelectionSettings> Record>
void visit_fields(Visitor& visit, Record& settings) {
  visit("family", settings.family);
  visit("query_tile", settings.query_tile);
  const bool tiles = settings.family == Family::kTile;
  visit.fixed("unit", tiles ? settings.query_tile : 1);
  visit("ratio", settings.ratio);
  visit("top_k", settings.top_k);
  visit("min_keys", settings.min_keys);
  visit.unless("mass", settings.mass, SelectionSettings{}.mass);
  visit.unless("max_ratio", settings.max_ratio, SelectionSettings{}.max_ratio);
  if (tiles) {
    visit.fixed("pooling", "max");
  } else {
    visit("pooling", settings.pooling);
  }
  visit("decode_own_tile", settings.decode_own_tile);
  visit("sink_keys", settings.sink_keys);
  visit.unless("all_heads", settings.all_heads, false);
  visit.unless("int4_keys", settings.int4_keys, false);
  visit.unless("dense_below", settings.dense_below, 0);
}

template <typename Visitor, Is<LayerSchedule> Record>
void visit_fields(Visitor& visit, Record& layer) {
  visit("role", layer.role);
  visit("anchor", layer.anchor);
  visit("head_map", layer.head_map);
  visit("similarity", layer.similarity);
  visit("importance", layer.importance);
  visit.optional("reuse_cost", layer.reuse_cost);
  visit("reason", layer.reason);
}

template <typename Visitor, Is<Schedule> Record>
void visit_fields(Visitor& visit, Record& schedule) {
  visit.fixed("format_version", kFormatVersion);
  visit("schedule_id", schedule.schedule_id);
  visit("model", schedule.model);
  visit("created_at", schedule.created_at);
  visit.with_defaults("calibration", schedule.calibration);
  visit("selection", schedule.selection);
  visit("layers", schedule.layers);
  visit.with_defaults("quality", schedule.quality);
}

class Writer {
 public:
  template <typename T>
  void operator()(const char* key, const T& value) {
    object_[key] = encode(value);
  }
  template <typename T>
  void with_defaults(const char* key, const T& value) {
    (*this)(key, value);
  }
  // These three leave out what older files do not have, so that those keep their ids.
  template <typename T>
  void optional(const char* key, const std::optional<T>& value) {
    if (value) object_[key] = encode(*value);
  }
  template <typename T>
  void unless(const char* key, const T& value, const T& omitted) {
    if (value != omitted) object_[key] = value;
  }
  template <typename Row>
  void rows(const char* key, const std::vector<Row>& rows) {
    for (const Row& row : rows) object_[key].push_back(encode(row));
  }
  template <typename T>
  void fixed(const char* key, const T& value) {
    object_[key] = value;
  }

  template <typename Record>
  static Json encode(const Record& value) {
    if constexpr (requires(Writer writer) { visit_fields(writer, value); }) {
      Writer fields;
      visit_fields(fields, value);
      return std::move(fields.object_);
    } else if constexpr (std::is_enum_v<Record>) {
      return std::string(name_of(value));
    } else {
      return value;
    }
  }
  static Json encode(const std::vector<LayerSchedule>& layers) {
    Json array = Json::array();
    for (const LayerSchedule& layer : layers) array.push_back(encode(layer));
    return array;
  }

 private:
  Json object_ = Json::object();
};

// Reads one object. The first error is kept, and after it everything is skipped.
class Reader {
 public:
  Reader(const Json& object, std::string path) : object_(object), path_(std::move(path)) {
    if (!object.is_object()) refuse(shown_path(), "an object", object);
  }

  template <typename T>
  void operator()(const char* key, T& value) {
    const Json* found = find(key, /*required=*/!defaults_);
    if (found != nullptr) decode(*found, path_to(key), value);
  }
  template <typename T>
  void with_defaults(const char* key, T& value) {
    if (const Json* found = find(key, /*required=*/true)) read_record(*found, key, value, true);
  }
  template <typename T>
  void optional(const char* key, std::optional<T>& value) {
    if (const Json* found = find(key)) decode(*found, path_to(key), value.emplace());
  }
  template <typename T>
  void unless(const char* key, T& value, const T& /*omitted*/) {
    if (const Json* found = find(key)) decode(*found, path_to(key), value);
  }
  template <typename Row>
  void rows(const char* key, std::vector<Row>& rows) {
    const Json* found = find(key);
    if (found == nullptr) return;
    if (found->size() > kMaxRows) {
      return refuse(path_to(key), absl::StrCat("at most ", kMaxRows, " rows"), *found);
    }
    decode(*found, path_to(key), rows);
  }
  template <typename T>
  void fixed(const char* key, const T& value) {
    const Json expected = value;
    if (const Json* found = find(key, /*required=*/true); found && *found != expected)
      refuse(path_to(key), expected.dump(), *found);
  }

  // Must be called after all fields were visited.
  absl::Status status() {
    if (!status_.ok()) return status_;
    for (const auto& [key, value] : object_.items()) {
      if (std::find(seen_.begin(), seen_.end(), key) == seen_.end()) {
        return absl::InvalidArgumentError(
            absl::StrCat("unknown key \"", printable(key), "\" in ", shown_path()));
      }
    }
    return absl::OkStatus();
  }

 private:
  // Error messages must stay short and valid UTF-8 whatever the file holds.
  static std::string printable(const Json& value) {
    if (value.is_object()) return "an object";
    if (value.is_array()) return "an array";
    const std::string text =
        value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
    return text.size() > 64 ? text.substr(0, 64) + "…" : text;
  }
  static std::string printable(const std::string& key) {
    const std::string quoted = printable(Json(key));
    return quoted.size() < 2 ? quoted : quoted.substr(1, quoted.size() - 2);
  }
  std::string path_to(const char* key) const { return path_ + (path_.empty() ? "" : ".") + key; }
  std::string shown_path() const { return path_.empty() ? "the schedule" : path_; }

  void refuse(const std::string& field, const std::string& expected, const Json& found) {
    if (!status_.ok()) return;
    status_ = absl::InvalidArgumentError(
        absl::StrCat(field, " must be ", expected, ", is ", printable(found)));
  }

  const Json* find(const char* key, bool required = false) {
    if (!status_.ok()) return nullptr;
    seen_.emplace_back(key);
    const auto found = object_.find(key);
    if (found != object_.end()) return &*found;
    if (required) {
      status_ =
          absl::InvalidArgumentError(absl::StrCat("missing key \"", key, "\" in ", shown_path()));
    }
    return nullptr;
  }

  void decode(const Json& json, const std::string& field, std::string& value) {
    if (!json.is_string()) return refuse(field, "a string", json);
    value = json.get_ref<const std::string&>();
  }
  void decode(const Json& json, const std::string& field, bool& value) {
    if (!json.is_boolean()) return refuse(field, "true or false", json);
    value = json.get<bool>();
  }
  void decode(const Json& json, const std::string& field, double& value) {
    if (!json.is_number()) return refuse(field, "a number", json);
    value = json.get<double>();
  }
  template <std::signed_integral Integer>
  void decode(const Json& json, const std::string& field, Integer& value) {
    constexpr int64_t low = std::numeric_limits<Integer>::min();
    constexpr int64_t high = std::numeric_limits<Integer>::max();
    const bool fits =
        json.is_number_unsigned()
            ? json.get<uint64_t>() <= static_cast<uint64_t>(high)
            : json.is_number_integer() && json.get<int64_t>() >= low && json.get<int64_t>() <= high;
    if (!fits) return refuse(field, absl::StrCat(8 * sizeof(Integer), "-bit integer"), json);
    value = json.get<Integer>();
  }
  void decode(const Json& json, const std::string& field, Family& value) {
    decode_name(json, field, value, {Family::kKascade, Family::kTile});
  }
  void decode(const Json& json, const std::string& field, ScorePooling& value) {
    decode_name(json, field, value, {ScorePooling::kSum, ScorePooling::kMax});
  }
  void decode(const Json& json, const std::string& field, Role& value) {
    decode_name(json, field, value, {Role::kDense, Role::kAnchor, Role::kReuse});
  }
  template <typename Enum>
  void decode_name(const Json& json, const std::string& field, Enum& value,
                   std::initializer_list<Enum> all) {
    std::string names;
    for (const Enum candidate : all) {
      const std::string name(name_of(candidate));
      if (json == name) {
        value = candidate;
        return;
      }
      absl::StrAppend(&names, names.empty() ? "" : " or ", name);
    }
    refuse(field, names, json);
  }
  template <typename Element>
  void decode(const Json& json, const std::string& field, std::vector<Element>& values) {
    if (!json.is_array()) return refuse(field, "an array", json);
    values.clear();  // grows with each valid element: a hostile array may be long
    for (size_t index = 0; index < json.size() && status_.ok(); ++index) {
      decode(json[index], absl::StrCat(field, "[", index, "]"), values.emplace_back());
    }
  }
  template <typename Record>
  void decode(const Json& json, const std::string& field, Record& record) {
    read_record(json, field, record, false);
  }
  template <typename Record>
  void read_record(const Json& json, const std::string& field, Record& record, bool defaults) {
    Reader fields(json, field);
    fields.defaults_ = defaults;
    visit_fields(fields, record);
    status_.Update(fields.status());
  }

  const Json& object_;
  std::string path_;
  bool defaults_ = false;  // a missing key keeps the field's default
  std::vector<std::string> seen_;
  absl::Status status_;
};

std::string dump(const Json& json) {
  return json.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

// The parser builds the whole document before it can be inspected, so the nesting is limited first.
bool nests_too_deep(std::string_view json) {
  int32_t depth = 0;
  bool in_string = false;
  for (size_t index = 0; index < json.size(); ++index) {
    const char c = json[index];
    if (in_string) {
      if (c == '\\') ++index;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxDepth) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

// The digest of the compact canonical form, so that the layout and the order of keys in a file do
// not matter.
std::string id_of(const Schedule& schedule) {
  Json json = Writer::encode(schedule);
  json.erase("schedule_id");
  return digest(dump(json));
}

}  // namespace

void seal(Schedule& schedule) { schedule.schedule_id = id_of(schedule); }

// Each layer is one line, which is short enough to read, and a change of one layer changes one
// line.
std::string to_json(const Schedule& schedule) {
  const Json json = Writer::encode(schedule);
  std::string text = "{\n";
  for (const auto& [key, value] : json.items()) {
    absl::StrAppend(&text, text.size() > 2 ? ",\n" : "", "  \"", key, "\": ");
    if (key != "layers" || value.empty()) {
      text += dump(value);
      continue;
    }
    text += "[\n";
    for (const Json& layer : value) {
      absl::StrAppend(&text, "    ", dump(layer), &layer == &value.back() ? "\n" : ",\n");
    }
    text += "  ]";
  }
  return text + "\n}\n";
}

absl::StatusOr<Schedule> parse_schedule(std::string_view json) {
  if (json.size() > kMaxScheduleBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a schedule may have ", kMaxScheduleBytes, " bytes, this has ", json.size()));
  }
  if (nests_too_deep(json)) {
    return absl::InvalidArgumentError(
        absl::StrCat("not a schedule: nested deeper than ", kMaxDepth, " levels"));
  }
  const Json parsed = Json::parse(json, /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded()) return absl::InvalidArgumentError(json_fault<Json>(json));
  Schedule schedule;
  Reader reader(parsed, "");
  visit_fields(reader, schedule);
  if (auto status = reader.status(); !status.ok()) return status;
  const std::string id = id_of(schedule);
  if (!schedule.schedule_id.empty() && schedule.schedule_id != id) {
    return absl::InvalidArgumentError(
        absl::StrCat("schedule_id is not the digest of the rest: ", id, " expected, ",
                     schedule.schedule_id.substr(0, 64), " found; empty it to accept a change"));
  }
  schedule.schedule_id = id;
  return schedule;
}

}  // namespace kascade
