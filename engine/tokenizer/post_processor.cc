#include "engine/tokenizer/post_processor.h"

#include "absl/strings/str_cat.h"

namespace kascade::bpe {
namespace {

class TemplateReader {
 public:
  explicit TemplateReader(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {}

  absl::Status read(const Json& json, const std::string& path) {
    ObjectReader reader(json, path);
    const std::string type = reader.text("type");
    if (type == "Sequence") {
      const Json& parts = reader.array("processors");
      for (size_t i = 0; i < parts.size() && reader.status().ok(); ++i) {
        reader.fail(read(parts[i], absl::StrCat(path, ".processors[", i, "]")));
      }
    } else if (type == "TemplateProcessing" && !has_template_) {
      has_template_ = true;
      read_template(reader);
    } else if (type == "ByteLevel") {
      // ByteLevel changes only offsets, which this tokenizer does not report.
      for (const char* name : {"add_prefix_space", "trim_offsets", "use_regex"}) {
        reader.ignore(name);
      }
    } else {
      reader.fail(unsupported(reader.path_of("type"), type,
                              "one TemplateProcessing, ByteLevel, Sequence of these, or null"));
    }
    return reader.finish();
  }

  PostProcessor result{};

 private:
  void read_template(ObjectReader& reader) {
    reader.ignore("pair");  // only single texts are encoded
    const Json* tokens = &reader.object("special_tokens");
    const Json& items = reader.array("single");
    bool has_text = false;
    for (size_t i = 0; i < items.size() && reader.status().ok(); ++i) {
      ObjectReader item(items[i], reader.path_of(absl::StrCat("single[", i, "]")));
      const bool is_text = item.find("Sequence") != nullptr;
      ObjectReader value(item.object(is_text ? "Sequence" : "SpecialToken"),
                         item.path_of(is_text ? "Sequence" : "SpecialToken"));
      value.ignore("type_id");
      const std::string id = value.text("id");
      item.fail(value.finish());
      if (!is_text) {
        item.fail(append_ids(*tokens, id, reader, has_text ? result.suffix : result.prefix));
      } else if (id != "A" || has_text) {
        item.fail(unsupported(value.path_of("id"), id, "A, once"));
      }
      has_text = has_text || is_text;
      reader.fail(item.finish());
    }
    if (!has_text) reader.fail(malformed(reader.path_of("single"), items, "Sequence A in it"));
  }

  absl::Status append_ids(const Json& tokens, const std::string& name, ObjectReader& reader,
                          std::vector<int32_t>& out) {
    const std::string path = absl::StrCat(reader.path_of("special_tokens"), "[", name, "]");
    const auto token = tokens.find(name);
    if (token == tokens.end()) return malformed(path, nullptr, "the token that `single` names");
    ObjectReader fields(*token, path);
    fields.ignore("id");
    fields.ignore("tokens");  // the texts of the tokens, which the ids already determine
    for (const Json& id : fields.array("ids")) {
      const bool is_id = is_natural(id) && id.get<uint64_t>() < Vocabulary::kMaxIds;
      if (!is_id || !vocabulary_.has(id.get<int32_t>())) {
        return malformed(fields.path_of("ids"), id, "ids of the vocabulary");
      }
      out.push_back(id.get<int32_t>());
    }
    return fields.finish();
  }

  const Vocabulary& vocabulary_;
  bool has_template_ = false;
};

}  // namespace

absl::StatusOr<PostProcessor> PostProcessor::parse(const Json* json, const Vocabulary& vocabulary) {
  TemplateReader reader(vocabulary);
  if (!json) return reader.result;
  const absl::Status status = reader.read(*json, "post_processor");
  if (!status.ok()) return status;
  return std::move(reader.result);
}

}  // namespace kascade::bpe
