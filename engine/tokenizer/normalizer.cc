#include "engine/tokenizer/normalizer.h"

#include "absl/strings/str_cat.h"

namespace kascade::bpe {

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  size_t found = text.find(from);
  if (found == std::string::npos) return;
  std::string result;
  size_t copied = 0;
  for (; found != std::string::npos; found = text.find(from, copied)) {
    result.append(text, copied, found - copied);
    result += to;
    copied = found + from.size();
  }
  result.append(text, copied);
  text = std::move(result);
}

absl::StatusOr<Normalizer> Normalizer::parse(const Json* json) {
  Normalizer normalizer;
  if (!json) return normalizer;
  const absl::Status status = normalizer.add(*json, "normalizer");
  if (!status.ok()) return status;
  return normalizer;
}

absl::Status Normalizer::add(const Json& json, const std::string& path) {
  ObjectReader reader(json, path);
  const std::string type = reader.text("type");
  if (type == "Sequence") {
    const Json& parts = reader.array("normalizers");
    for (size_t i = 0; i < parts.size(); ++i) {
      reader.fail(add(parts[i], absl::StrCat(path, ".normalizers[", i, "]")));
    }
  } else if (type == "Prepend") {
    steps_.push_back({.to = reader.text("prepend")});
  } else if (type == "Replace") {
    reader.fail(add_replace(reader));
  } else if (const std::optional<UnicodeForm> form = unicode_form_of(type)) {
    steps_.push_back({.form = form});
  } else {
    reader.fail(unsupported(reader.path_of("type"), type,
                            "Sequence, Prepend, Replace, NFC, NFD, NFKC, NFKD, or null"));
  }
  return reader.finish();
}

absl::Status Normalizer::add_replace(ObjectReader& reader) {
  Step step;
  step.to = reader.text("content");
  ObjectReader pattern(reader.object("pattern"), reader.path_of("pattern"));
  const std::optional<std::string> regex = pattern.optional_text("Regex");
  if (!regex) step.from = pattern.text("String");
  reader.fail(pattern.finish());
  if (!reader.status().ok()) return reader.status();
  if (!regex) {
    if (step.from.empty()) return malformed(reader.path_of("pattern.String"), "", "some text");
  } else {
    auto compiled = Pattern::compile(*regex);
    if (!compiled.ok()) {
      return absl::Status(
          compiled.status().code(),
          absl::StrCat(reader.path_of("pattern.Regex"), ": ", compiled.status().message()));
    }
    step.pattern = *std::move(compiled);
  }
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

absl::StatusOr<std::string> Normalizer::apply(std::string_view text) const {
  std::string result(text);
  for (const Step& step : steps_) {
    if (step.form || step.pattern) {
      absl::StatusOr<std::string> changed =
          step.form ? to_unicode_form(result, *step.form) : step.pattern->replace(result, step.to);
      if (!changed.ok()) return changed.status();
      result = *std::move(changed);
    } else if (!step.from.empty()) {
      replace_all(result, step.from, step.to);
    } else if (!result.empty()) {
      result.insert(0, step.to);
    }
  }
  return result;
}

}  // namespace kascade::bpe
