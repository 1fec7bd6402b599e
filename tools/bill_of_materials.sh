#!/bin/sh
# Prints the installed Debian packages, and this project's, as an SPDX 2.3 document in JSON.
set -eu
version=$(kascade-server --version | cut -d ' ' -f 2)
created=$(date -u +%Y-%m-%dT%H:%M:%SZ)
# shellcheck source=/dev/null
distribution=$(. /etc/os-release && echo "$VERSION_ID")

dpkg-query --show --showformat '${Package}\t${Version}\t${Architecture}\t${Maintainer}\t${db:Status-Status}\n' |
  awk -F '\t' -v version="$version" -v created="$created" -v distribution="$distribution" '
    function quoted(text) { gsub(/["\\]/, "\\\\&", text); return "\"" text "\"" }
    function escaped(text) { gsub(/\+/, "%2B", text); gsub(/:/, "%3A", text); return text }
    function package(id, name, number, supplier, licence, more) {
      printf "%s    {\"SPDXID\": \"SPDXRef-%s\", \"name\": %s, \"versionInfo\": %s, \"supplier\": %s, ", comma, id, quoted(name), quoted(number), supplier
      printf "\"downloadLocation\": \"NOASSERTION\", \"filesAnalyzed\": false, \"licenseConcluded\": \"NOASSERTION\", "
      printf "\"licenseDeclared\": \"%s\", \"copyrightText\": \"NOASSERTION\"%s}", licence, more
      comma = ",\n"
      relations = relations ",\n    {\"spdxElementId\": \"SPDXRef-kascade-serve\", \"relationshipType\": \"DEPENDS_ON\", \"relatedSpdxElement\": \"SPDXRef-" id "\"}"
    }
    BEGIN {
      print "{"
      print "  \"spdxVersion\": \"SPDX-2.3\", \"dataLicense\": \"CC0-1.0\", \"SPDXID\": \"SPDXRef-DOCUMENT\","
      printf "  \"name\": \"kascade-serve-%s\", \"documentNamespace\": \"urn:kascade-serve:%s:%s\",\n", version, version, created
      printf "  \"creationInfo\": {\"created\": \"%s\", \"creators\": [\"Tool: bill_of_materials.sh\"]},\n", created
      print "  \"packages\": ["
      package("kascade-serve", "kascade-serve", version, "\"NOASSERTION\"", "Apache-2.0", "")
      relations = "    {\"spdxElementId\": \"SPDXRef-DOCUMENT\", \"relationshipType\": \"DESCRIBES\", \"relatedSpdxElement\": \"SPDXRef-kascade-serve\"}"
    }
    $5 == "installed" {
      id = "deb-" $1 "-" $3
      gsub(/[^A-Za-z0-9.-]/, "-", id)
      locator = "pkg:deb/debian/" $1 "@" escaped($2) "?arch=" $3 "&distro=debian-" distribution
      package(id, $1, $2, quoted("Organization: " $4), "NOASSERTION",
              ", \"externalRefs\": [{\"referenceCategory\": \"PACKAGE-MANAGER\", \"referenceType\": \"purl\", \"referenceLocator\": " quoted(locator) "}]")
    }
    END { printf "\n  ],\n  \"relationships\": [\n%s\n  ]\n}\n", relations }'
