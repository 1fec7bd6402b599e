#include "server/config_file.h"

#include <algorithm>
#include <fstream>
#include <numeric>
#include <set>
#include <sstream>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "yaml-cpp/yaml.h"

namespace kascade::server {
namespace {

constexpr size_t kMaxFileBytes = size_t{1} << 20;
constexpr size_t kMaxNearestEdits = 3;

absl::Status wrong(const std::string& place, const std::string& reason) {
  return absl::InvalidArgumentError(absl::StrCat(place, ": ", reason));
}

absl::StatusOr<std::string> contents_of(const std::filesystem::path& file) {
  std::error_code error;
  if (std::filesystem::is_directory(file, error)) return wrong(file.string(), "is a folder");
  std::ifstream in(file, std::ios::binary);
  if (!in) return wrong(file.string(), "cannot be read");
  std::string text(kMaxFileBytes + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  if (in.bad()) return wrong(file.string(), "cannot be read");
  if (text.size() <= kMaxFileBytes) return text;
  return wrong(file.string(), absl::StrCat("is larger than ", kMaxFileBytes, " bytes"));
}

std::string place_of(const std::filesystem::path& file, const YAML::Mark& mark) {
  return mark.is_null() ? file.string() : absl::StrCat(file.string(), ":", mark.line + 1);
}

absl::StatusOr<std::vector<ConfigEntry>> entries_of(const YAML::Node& root,
                                                    const std::filesystem::path& file) {
  std::vector<ConfigEntry> entries;
  if (root.IsNull()) return entries;
  if (!root.IsMap()) {
    return wrong(place_of(file, root.Mark()), "expected a mapping from options to values");
  }
  for (const auto& item : root) {
    const std::string place = place_of(file, item.first.Mark());
    if (!item.first.IsScalar()) return wrong(place, "expected the name of an option");
    const std::string& name = item.first.Scalar();
    if (!item.second.IsScalar()) {
      return wrong(place, absl::StrCat(name, ": expected one value, found ",
                                       item.second.IsNull() ? "none" : "a list or a mapping"));
    }
    entries.push_back({.name = name, .value = item.second.Scalar(), .place = place});
  }
  return entries;
}

absl::StatusOr<std::vector<ConfigEntry>> read_yaml(const std::string& text,
                                                   const std::filesystem::path& file) {
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.size() > 1) return wrong(file.string(), "has more than one YAML document");
    return documents.empty() ? std::vector<ConfigEntry>{} : entries_of(documents.front(), file);
  } catch (const YAML::Exception& error) {
    return wrong(place_of(file, error.mark), error.msg);
  }
}

// The parser of TOML tells no lines.
std::string place_in(const std::string& text, const std::string& name,
                     const std::filesystem::path& file) {
  std::istringstream lines(text);
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    CLI::detail::trim(line);
    const std::string written = CLI::detail::trim_copy(line.substr(0, line.find_first_of("=#")));
    if (written == name || written == absl::StrCat("\"", name, "\"")) {
      return absl::StrCat(file.string(), ":", number);
    }
  }
  return file.string();
}

absl::StatusOr<std::vector<ConfigEntry>> read_toml(const std::string& text,
                                                   const std::filesystem::path& file) {
  std::vector<ConfigEntry> entries;
  std::vector<CLI::ConfigItem> items;
  try {
    std::istringstream in(text);
    items = CLI::ConfigTOML().from_config(in);
  } catch (const CLI::Error& error) {
    return wrong(file.string(), error.what());
  }
  for (const CLI::ConfigItem& item : items) {
    if (!item.parents.empty()) {
      return wrong(file.string(), absl::StrCat("has a section, [", item.parents.front(),
                                               "]; options stand in none"));
    }
    const std::string place = place_in(text, item.name, file);
    if (item.inputs.size() != 1) {
      return wrong(
          place, absl::StrCat(item.name, ": expected one value, once; found ", item.inputs.size()));
    }
    entries.push_back({.name = item.name, .value = item.inputs.front(), .place = place});
  }
  return entries;
}

// Insertions, deletions and replacements that make one text of the other.
size_t edits_between(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j + 1] + 1, row[j] + 1});
    }
  }
  return row.back();
}

}  // namespace

absl::StatusOr<std::vector<ConfigEntry>> read_config_file(const std::filesystem::path& file) {
  const auto text = contents_of(file);
  if (!text.ok()) return text.status();
  const bool is_yaml = file.extension() == ".yaml" || file.extension() == ".yml";
  auto entries = is_yaml ? read_yaml(*text, file) : read_toml(*text, file);
  if (!entries.ok()) return entries;
  std::set<std::string_view> seen;
  for (const ConfigEntry& entry : *entries) {
    if (!seen.insert(entry.name).second) {
      return wrong(entry.place, absl::StrCat(entry.name, ": occurs twice"));
    }
  }
  return entries;
}

std::string_view nearest_name(std::string_view name, std::span<const std::string> names) {
  std::string_view nearest;
  size_t least = std::min(kMaxNearestEdits, name.size() / 2) + 1;
  if (name.size() > 64) return nearest;
  for (const std::string& candidate : names) {
    const size_t edits = edits_between(name, candidate);
    if (edits >= least) continue;
    least = edits;
    nearest = candidate;
  }
  return nearest;
}

}  // namespace kascade::server
